"""What a claim costs in tables of different sizes, and how many bytes an image takes."""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.scale import large_jobs
from benchmarks.scale.servers import postgres
from imagemill.db.database import Database
from imagemill.db.present_store import record_store
from imagemill.db.queries.audit import audit
from imagemill.db.queries.work import claims
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit
from tests.helpers.mill import Mill

CLAIMED = 8
_FINISHERS = 2
_FINISHED_AT_ONCE = 16
_SHOWN_BYTES = 20
"""Tables with fewer for each image are counted, and not listed."""


def claim_costs(sizes: Sequence[int], *, claims_each: int) -> dict[str, Any]:
    """The time of a claim of 8 by the number of ready images, each size a database of its own.

    The sizes take turns, claim by claim, so that whatever else the machine does meets all of them.
    """
    with postgres() as server:
        tables = {size: _Claimer(server.create_database(f"rows{size}"), size) for size in sizes}
        for claimer in tables.values():
            claimer.claim()  # the first one prepares its statements
        milliseconds: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(claims_each):
            for size, claimer in tables.items():
                milliseconds[size].append(1000 * claimer.claim())
        for claimer in tables.values():
            claimer.close()
    medians = {size: statistics.median(found) for size, found in milliseconds.items()}
    smallest = medians[min(sizes)]
    return {
        "claimed": CLAIMED,
        "claims": claims_each,
        "sizes": [
            {
                "rows": size,
                "load_seconds": round(tables[size].load_seconds, 1),
                "median_ms": round(medians[size], 3),
                "p95_ms": round(statistics.quantiles(milliseconds[size], n=20)[-1], 3),
                "ratio": round(medians[size] / smallest, 3),
            }
            for size in sizes
        ],
    }


class _Claimer:
    """A worker with a shift, on a database with so many ready images."""

    def __init__(self, url: str, rows: int) -> None:
        self._database = Database(url)
        migrate(self._database)
        mill = Mill(self._database)
        started = time.perf_counter()
        large_jobs.load(mill, f"{rows} rows", rows)
        with self._database.engine.connect() as connection:
            options = connection.execution_options(isolation_level="AUTOCOMMIT")
            options.execute(text("VACUUM ANALYZE"))  # as autovacuum would, a little later
        self.load_seconds = time.perf_counter() - started
        self._shift = mill.shift(lease_seconds=3600)
        choice = mill.choose()
        assert choice is not None, "there are ready images"
        self._group = choice.id

    def claim(self) -> float:
        """Claim once; the seconds of the whole transaction."""
        started = time.perf_counter()
        images = self._database.run(
            lambda session: claims.claim(
                session,
                shift_id=self._shift,
                group_id=self._group,
                route="default",
                limit=CLAIMED,
            )
        )
        seconds = time.perf_counter() - started
        assert len(images) == CLAIMED, "the table is too small for so many claims"
        return seconds

    def close(self) -> None:
        self._database.close()


def bytes_per_image(rows: int) -> dict[str, Any]:
    """Bytes in the database for a manifest of so many rows: queued, and when all are done."""
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        server.vacuum_often()
        url = server.create_database("bytes")
        database = Database(url)
        migrate(database)
        manifest = Path(folder) / "bytes.csv"
        lines = (f'{n},"{large_jobs.PROMPT}{n}",shapes\n' for n in range(rows))
        manifest.write_text("id,prompt,category\n" + "".join(lines))
        broker = "redis://127.0.0.1:1/0"  # nobody there: nothing is woken
        settings = Settings.load(database_url=url, storage_url=folder, broker_url=broker)
        record_store(database, open_storage(settings))  # as `migrate` does, and every worker
        submit(SubmissionRequest(manifest=str(manifest)), settings=settings, database=database)
        queued = _sizes(database)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(_FINISHERS, mp_context=spawn) as pool:
            finished = sum(pool.map(_finish_all, [url] * _FINISHERS))
        done = _sizes(database)
        with database.reading() as session:
            violations = [str(each) for each in audit(session)]
        database.close()
    tables = sorted(done, key=lambda name: -sum(done[name]))
    return {
        "rows": rows,
        "done": finished,
        "violations": violations,
        "queued_bytes_per_image": round(sum(map(sum, queued.values())) / rows, 1),
        "done_bytes_per_image": round(sum(map(sum, done.values())) / rows, 1),
        "tables": [
            {
                "table": name,
                "queued": round(sum(queued.get(name, (0, 0))) / rows, 1),
                "done_table": round(done[name][0] / rows, 1),
                "done_indexes": round(done[name][1] / rows, 1),
            }
            for name in tables
            if sum(done[name]) >= _SHOWN_BYTES * rows
        ],
    }


def _finish_all(url: str) -> int:
    """Claim, begin and complete until nothing is left; how many images."""
    mill = Mill(Database(url))
    shift = mill.shift(lease_seconds=36_000)
    choice = mill.choose()
    finished = 0
    while choice is not None:
        held = mill.claim(shift, limit=_FINISHED_AT_ONCE, group_id=choice.id)
        if not held:
            break
        mill.begin(shift, [image.id for image in held])
        finished += mill.complete(shift, held)
    mill.database.close()
    return finished


def _sizes(database: Database) -> dict[str, tuple[int, int]]:
    """Bytes of each table and of its indexes, with what vacuum has not yet given back."""
    query = text(
        "SELECT relname, pg_table_size(oid) AS own, pg_indexes_size(oid) AS indexes"
        " FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    with database.engine.connect() as connection:
        options = connection.execution_options(isolation_level="AUTOCOMMIT")
        options.execute(text("VACUUM ANALYZE"))
        return {row.relname: (row.own, row.indexes) for row in connection.execute(query)}
