"""`python -m imagemill.worker.process.score_pass`: judge what is queued, without a broker, and end.

The control side starts it where there is no broker (`scheduler_jobs/local/score_pass.py`). It does
the same shifts as a Celery worker does.
"""

import logging
import os
import socket
import sys
from contextlib import closing

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError
from imagemill.db.models.scorers import all_scorers
from imagemill.db.process.logs import configure_logging
from imagemill.db.queries.work import score_work, shifts
from imagemill.db.schema import ensure_schema
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.worker.process.drain import DrainSignal
from imagemill.worker.scores.shelf import ScorerShelf
from imagemill.worker.scores.shift import ScoreShift
from imagemill.worker.shifts.worker_context import WorkerContext

log = logging.getLogger(__name__)


def main() -> int:
    """Do shifts until nothing is left that may be taken; the exit status."""
    settings = Settings.load()
    configure_logging(settings)
    try:
        with closing(Database.from_settings(settings)) as database:
            ensure_schema(database)
            return _work(settings, database)
    except ImagemillError as error:
        log.error("%s: %s", error.code, error)  # noqa: TRY400  # one line
        return error.exit_code


def _work(settings: Settings, database: Database) -> int:
    drain = DrainSignal(seconds=settings.drain_seconds)
    drain.install()
    shelf = ScorerShelf(all_scorers(settings), settings)
    host, pid = socket.gethostname(), os.getpid()
    worker_id = database.run(
        lambda session: shifts.register_worker(
            session, name=f"{host}:{pid}", host=host, pid=pid, device="cpu", route=settings.route
        )
    )
    while drain.since is None and database.run(
        lambda session: score_work.count_due(session, route=settings.route, known=shelf.able)
    ):
        context = WorkerContext(
            database=database,
            storage=open_storage(settings),
            settings=settings,
            worker_id=worker_id,
            drain=drain,
        )
        ScoreShift(context, shelf=shelf).work()
    database.run(lambda session: shifts.stop_worker(session, worker_id))
    for problem in shelf.refused:
        log.error("%s", problem)
    return 2 if shelf.refused else 0


if __name__ == "__main__":
    sys.exit(main())
