"""`python -m imagemill.worker`: a worker without the rest of the command line."""

from imagemill.worker.cli.worker import worker

if __name__ == "__main__":
    worker()
