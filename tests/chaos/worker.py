"""`python -m tests.chaos.worker`: the Celery worker of production, with the fake engine.

Celery's children are forks of this process, or import this module as their main module; so they
are prepared as well.
"""

from imagemill.worker.cli.worker import worker
from tests.chaos.roles import prepare_worker

prepare_worker()

if __name__ == "__main__":
    worker()
