"""`python -m imagemill.worker`: a worker without the rest of the command line."""

from imagemill.db.process.quick_exit import quick_exit
from imagemill.worker.cli.worker import worker

if __name__ == "__main__":
    with quick_exit():
        worker()
