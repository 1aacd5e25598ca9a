"""`python -m worker`: a worker without the rest of the command line."""

from worker.cli import worker

if __name__ == "__main__":
    worker()
