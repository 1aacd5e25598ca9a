"""How fast the database is: rows and images inserted, images claimed, questions answered.

    python benchmarks/database.py [--images 100000] [--url postgresql+psycopg://…]

Prints a table, then an object as its last line. Without `--url` it measures a SQLite file and a
PostgreSQL started from a wheel. Figures in `docs/database.md` come from here.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.queries import tallies
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.queries.jobs.job_rows import NewRow
from imagemill.db.queries.jobs.new_images import NewImages
from imagemill.db.queries.work import claims
from imagemill.db.queries.work.due_images import due_images
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.shared_specs import Request, SharedSpec
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit
from tests.helpers.mill import DIGEST, Mill, spec
from tests.helpers.servers.postgres import Postgres

CHUNK = 1_000
CLAIMERS = 4
BATCH = 8


def insert(mill: Mill, images: int) -> dict[str, float]:
    """Rows and images by the second, in chunks of 1,000 rows with one image each."""
    job_id = mill.create("bench")
    shared = SharedSpec(spec("a red circle"))
    spent = {"rows": 0.0, "images": 0.0}

    def chunk(session: Session, first: int) -> None:
        job = job_rows.lock_loading(session, job_id)
        job_rows.register_model(session, name="m", weights_digest=DIGEST, source="-", document={})
        rows = [
            NewRow(
                number=n,
                line=n + 1,
                verbatim=f'{{"prompt": "a red circle, number {n}"}}',
                extras={"Category": "shapes"},
                key_base=f"id:{n}",
            )
            for n in range(first, first + CHUNK)
        ]
        requests = [
            Request(shared, f"a red circle, number {row.number}", row.number) for row in rows
        ]
        started = time.perf_counter()
        ids = job_rows.insert_rows(session, job, rows)
        between = time.perf_counter()
        images = NewImages.of((0, each) for each in requests)
        job_rows.insert_images(session, job, images, row_ids=ids)
        spent["rows"] += between - started
        spent["images"] += time.perf_counter() - between
        job.rows_loaded += CHUNK

    started = time.perf_counter()
    for first in range(1, images + 1, CHUNK):
        mill.database.run(lambda session, f=first: chunk(session, f))
    total = time.perf_counter() - started
    mill.database.run(lambda session: lifecycle.open_job(session, job_id))
    return {
        "rows inserted/s": images / spent["rows"],
        "images inserted/s": images / spent["images"],
        "rows with images loaded/s": images / total,
    }


def submitted(database: Database, rows: int) -> float:
    """Rows of a CSV by the second, from the file to a job that is open: read, planned, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "bench.csv"
        lines = (f'"a red circle, number {n} on a blue background",shapes\n' for n in range(rows))
        manifest.write_text("prompt,Category\n" + "".join(lines))
        settings = Settings(
            database_url=database.engine.url.render_as_string(hide_password=False),
            storage_url=folder,
            broker_url="redis://127.0.0.1:1/0",  # nobody there: nothing is woken
        )
        started = time.perf_counter()
        submit(SubmissionRequest(manifest=str(manifest)), settings=settings, database=database)
        return rows / (time.perf_counter() - started)


def claim_for(url: str, seconds: float) -> tuple[int, int]:
    """Claims of 8 until the time is over: how many claims, how many images."""
    mill = Mill(Database(url))
    shift = mill.shift(lease_seconds=3600)
    count = found = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        got = mill.database.run(
            lambda session: claims.claim(
                session, shift_id=shift, group_id=1, route="default", limit=BATCH
            )
        )
        count += 1
        found += len(got)
    mill.database.close()
    return count, found


def claim_and_complete_for(url: str, seconds: float) -> int:
    """What a worker does with each batch: claim, begin, complete. How many images."""
    mill = Mill(Database(url))
    shift = mill.shift(lease_seconds=3600)
    done = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        held = mill.claim(shift, limit=BATCH, group_id=1)
        mill.begin(shift, [image.id for image in held])
        done += mill.complete(shift, held)
    mill.database.close()
    return done


def questions(mill: Mill) -> dict[str, float]:
    """Milliseconds of what dispatcher and workers ask all the time."""

    def milliseconds(work: Callable) -> float:
        mill.database.run(work)
        started = time.perf_counter()
        for _ in range(20):
            mill.database.run(work)
        return (time.perf_counter() - started) / 20 * 1000

    mill.database.run(tallies.fold)
    return {
        "choose_group ms": milliseconds(lambda s: claims.choose_group(s, route="default")),
        "finish_jobs ms": milliseconds(lifecycle.finish_jobs),
        "due_images ms": milliseconds(due_images),
        "cancel_stragglers ms": milliseconds(lifecycle.cancel_stragglers),
        "count_images ms": milliseconds(lambda s: tallies.count_images(s, [1])),
        "fold ms": milliseconds(tallies.fold),
    }


def measure(url: str, images: int, other_jobs: int, seconds: float) -> dict[str, float]:
    database = Database(url)
    migrate(database)
    mill = Mill(database)
    found = insert(mill, images)
    found["manifest rows submitted/s"] = submitted(database, images)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CLAIMERS, mp_context=spawn) as pool:
        list(pool.map(claim_for, [url] * CLAIMERS, [0.01] * CLAIMERS))  # warm
        results = list(pool.map(claim_for, [url] * CLAIMERS, [seconds] * CLAIMERS))
        found["claims of 8/s (4 processes)"] = sum(count for count, _ in results) / seconds
        mill.database.run(tallies.fold)
        done = list(pool.map(claim_and_complete_for, [url] * CLAIMERS, [seconds] * CLAIMERS))
        found["images claimed and done/s (4 processes)"] = sum(done) / seconds
    for n in range(other_jobs):
        mill.load(f"job {n}", [spec(f"job {n}")])
    found |= questions(mill)
    database.close()
    return {name: round(value, 1) for name, value in found.items()}


@contextmanager
def databases(url: str | None) -> Iterator[dict[str, str]]:
    """The databases to measure, by name."""
    if url is not None:
        yield {"given": url}
        return
    with tempfile.TemporaryDirectory() as folder, Postgres() as server:
        yield {
            "sqlite": f"sqlite:///{folder}/bench.sqlite3",
            "postgres": server.create_database(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=1_000, help="other jobs for the questions")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--url", help="an empty database; default: a SQLite file and a PostgreSQL")
    arguments = parser.parse_args()
    with databases(arguments.url) as found:
        results = {
            name: measure(url, arguments.images, arguments.jobs, arguments.seconds)
            for name, url in found.items()
        }
    for line in next(iter(results.values())):
        print(f"{line:42}", *(f"{name} {result[line]:>10,.1f}" for name, result in results.items()))
    print(json.dumps({"images": arguments.images, **results}))


if __name__ == "__main__":
    main()
