"""What a question costs on a job of 100,000 images: as much as its answer, not as its job.

Nothing is timed. PostgreSQL says how many rows each statement's plan has read (`EXPLAIN ANALYZE`),
SQLite how many steps its virtual machine has made.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, event, func, select, update
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.queries.fleet import backlog, reports
from imagemill.db.queries.fleet.rates import Kind, measured_rates
from imagemill.db.queries.fleet.workers import list_fleet
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.jobs.seats import set_max_workers
from imagemill.db.queries.pictures import objects
from imagemill.db.queries.pictures.finished_images import PAGE as PAGE_OF_NEW_IMAGES
from imagemill.db.queries.pictures.finished_images import finished_since
from imagemill.db.queries.pictures.image_reports import ImageFilter, list_images
from imagemill.db.queries.pictures.image_search import Rank, ranked
from imagemill.db.queries.work import claims
from imagemill.db.queries.work.due_images import due_images, idle_of_mixed_routes
from imagemill.db.states import ImageState, Outcome
from imagemill.db.tables import Image, JobSeat, Object
from tests.helpers.mill import CRASH, POLICY, Mill
from tests.helpers.mill import stored as stored_image
from tests.helpers.template import copy_of_template

ROWS = 20_000
SAMPLES = 5
IMAGES = ROWS * SAMPLES
FLAWED = 15
DEAD = 20
BAD_ROWS = 5
PAGE = 50

FEW_ROWS = 2_000
"""What a page of 50 images with their rows and objects may cost; the job has 100,000."""

FEW_STEPS = 60_000
"""The same for SQLite, whose virtual machine makes some steps for each row."""

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
DEAD_IDS = ", ".join(str(1 + n * (IMAGES // DEAD)) for n in range(DEAD))
_OUTCOME = f"CASE WHEN i > {IMAGES - FLAWED} THEN 'nan' ELSE 'ok' END"

_FILL = (
    "INSERT INTO models (weights_digest, name, source, document) VALUES ('d', 'm', '-', '{}')",
    'INSERT INTO groups ("key", model_id, document) VALUES'
    """ ('g', 1, '{"width": 64, "height": 64, "guided": true}')""",
    "INSERT INTO rows"
    " (job_id, number, line, key_base, key_occurrence, verbatim, extras, problem)"
    f" {_NUMBERS.format(ROWS)} SELECT 1, i, i, 'id:' || i, 0, 'a red circle', '{{}}',"
    f" CASE WHEN i > {ROWS - BAD_ROWS} THEN 'no prompt' END FROM n",
    "INSERT INTO objects (request_key, object_key, uri, sha256, pixels_sha256, size_bytes, width,"
    "  height, format, outcome, environment_id, seconds)"
    f" {_NUMBERS.format(IMAGES)} SELECT 'r' || i, 'o' || i, 'file:///o' || i, 's', 'p', 1000, 64,"
    f" 64, 'png', {_OUTCOME}, 1, 1.0 FROM n",
    "INSERT INTO images (job_id, row_id, sample_index, group_id, request_key, model, prompt,"
    "  negative_prompt, seed, width, height, steps, guidance_scale, sampler, format, options,"
    "  state, suspect, object_id, outcome)"
    f" {_NUMBERS.format(IMAGES)} SELECT 1, (i - 1) / {SAMPLES} + 1,"
    f" (i - 1) - (i - 1) / {SAMPLES} * {SAMPLES}, 1,"
    " 'r' || i, 'm', 'a red circle', '', 1, 64, 64, 20, 5.0, 'ddim', 'png', '{}', 'done', false,"
    f" i, {_OUTCOME} FROM n",
    "UPDATE images SET state = 'dead', object_id = NULL, outcome = NULL, error_code = 'render',"
    f" error_message = 'it raised' WHERE id IN ({DEAD_IDS})",
    "INSERT INTO scores (image_id, name, scorer, version, generation, value)"
    f" {_NUMBERS.format(IMAGES)} SELECT i, 'sharp', 's', '1', 1, i * 7919 & 1023 FROM n",
    "INSERT INTO scores (image_id, name, scorer, version, generation, value)"
    f" {_NUMBERS.format(IMAGES)} SELECT i, 'equal', 's', '1', 1, 1.0 FROM n",
    "INSERT INTO tallies (job_id, group_id, state, delta)"
    f" VALUES (1, 1, 'done', {IMAGES - DEAD}), (1, 1, 'dead', {DEAD})",
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A database with job 1, of 100,000 images, and job 2, of two, one of them done."""
    if request.param == "sqlite":
        file: Path = tmp_path_factory.mktemp("scale") / "large.sqlite3"
        copy_of_template(file)
        url = f"sqlite:///{file}"
    else:
        server = request.getfixturevalue("postgres_server")
        template = request.getfixturevalue("postgres_template")
        url = server.create_database(template=template)
    database = Database(url)
    fill(database)
    yield database
    database.close()
    if request.param == "postgres":
        server.drop_database(url)


def fill(database: Database) -> None:
    mill = Mill(database)
    assert mill.create("large") == 1
    with database.writing() as session:
        for statement in _FILL:
            session.connection().exec_driver_sql(statement)
    mill.load("small", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    with database.writing() as session:
        session.connection().exec_driver_sql("ANALYZE")


class Effort:
    """Adds up what the statements of a transaction cost: rows or steps read."""

    def __init__(self, database: Database) -> None:
        self.spent = 0
        self.plans: list[str] = []
        self._database = database

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._database.writing() as session:
            connection = session.connection()
            if self._database.is_sqlite:
                driver: Any = connection.connection.driver_connection
                driver.set_progress_handler(self._step, 100)
            else:
                event.listen(connection, "before_cursor_execute", self._explain)
            yield session
            if self._database.is_sqlite:
                driver.set_progress_handler(None, 0)
            session.rollback()

    def _step(self) -> int:
        self.spent += 100
        return 0

    def _explain(
        self, connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> None:
        if not statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            return  # our own words, or an insert, which reads nothing
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        with connection.begin_nested() as savepoint:  # it does what it explains
            [plan] = connection.exec_driver_sql(explain, parameters).scalar_one()
            savepoint.rollback()
        self.plans.append(json.dumps(plan["Plan"]))
        self.spent += rows_read(plan["Plan"])


def rows_read(plan: dict[str, Any]) -> int:
    """How many rows a plan has read from tables and indexes, those thrown away included."""
    inner = sum(rows_read(each) for each in plan.get("Plans", ()))
    if "Scan" not in plan["Node Type"] or plan["Node Type"] == "Bitmap Heap Scan":
        return inner
    removed = plan.get("Rows Removed by Filter", 0)
    return inner + round((plan["Actual Rows"] + removed) * plan["Actual Loops"])


def cost(database: Database, question: Callable[[Session], Any]) -> tuple[Any, float, list[str]]:
    """The answer, what part of the allowed effort it took, and the plans that took it."""
    effort = Effort(database)
    with effort.reading() as session:
        answer = question(session)
    allowed = FEW_STEPS if database.is_sqlite else FEW_ROWS
    return answer, effort.spent / allowed, effort.plans


def a_page(which: ImageFilter) -> Callable[[Session], Any]:
    return lambda session: len(list_images(session, which, limit=PAGE))


def test_reading_the_job_is_not_allowed(large: Database) -> None:
    """The yardstick itself: what reads every image is found out."""
    count = select(func.count(Image.prompt)).where(Image.job_id == 1)
    answer, part, plans = cost(large, lambda session: session.scalar(count))
    assert answer == IMAGES
    assert part > 5, plans


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            lambda s: reports.count_outcomes(s, 1),
            {"ok": IMAGES - DEAD - FLAWED, "nan": FLAWED},
        ),
        (lambda s: reports.count_outcomes(s, 2), {"ok": 1}),
        (lambda s: len(reports.list_groups(s, 1)), 1),
        (lambda s: [each.images for each in reports.count_dead(s, 1)], [DEAD]),
        (lambda s: len(reports.list_bad_rows(s, 1, limit=PAGE)), BAD_ROWS),
        (lambda s: [job.requested for job in reports.list_jobs(s)], [2, IMAGES]),
        (a_page(ImageFilter(job_id=1)), PAGE),
        (a_page(ImageFilter(job_id=1, outcome=Outcome.OK)), PAGE),
        (a_page(ImageFilter(job_id=1, outcome=Outcome.NAN)), FLAWED),
        (a_page(ImageFilter(job_id=1, outcome=Outcome.BLANK)), 0),
        (a_page(ImageFilter(outcome=Outcome.NAN)), FLAWED),
        (a_page(ImageFilter(job_id=1, state=ImageState.DONE)), PAGE),
        (a_page(ImageFilter(job_id=1, state=ImageState.DEAD)), DEAD),
        (a_page(ImageFilter(job_id=1, state=ImageState.READY)), 0),
        (a_page(ImageFilter(job_id=1, code="render")), DEAD),
        (a_page(ImageFilter(job_id=1, state=ImageState.DEAD, code="render")), DEAD),
        (a_page(ImageFilter(job_id=1, row=ROWS // 2)), SAMPLES),
        (a_page(ImageFilter(job_id=2)), 2),
        (lambda s: len(objects.objects_of_job(s, 1, limit=PAGE, after=IMAGES // 2)), PAGE),
        (lambda s: lifecycle.requeue(s, [IMAGES, IMAGES - 1]), 2),
        (due_images, {"default": 1}),
        (idle_of_mixed_routes, {}),
        (lambda s: reports.count_waiting(s, 1), None),
        (lambda s: [each.ready for each in backlog.list_backlog(s)], [1]),
        (lambda s: list(backlog.oldest_ready(s)), ["default"]),
        (backlog.count_stale_leases, 0),
        (backlog.count_lost_shifts, 0),
        (
            lambda s: [job.counts.requested for job in backlog.list_live_jobs(s, limit=9)],
            [2, IMAGES],
        ),
        (lambda s: sum(worker.images_in_work for worker in list_fleet(s)), 0),
    ],
)
def test_a_question_costs_what_its_answer_is_worth(
    large: Database, question: Callable[[Session], Any], expected: object
) -> None:
    answer, part, plans = cost(large, question)
    assert answer == expected
    assert part < 1, plans


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("score", "middle"), [("sharp", 500.0), ("equal", 1.0)])
def test_a_page_in_the_order_of_a_score_costs_what_is_on_it(
    large: Database, score: str, middle: float, descending: bool
) -> None:
    for after in (None, Rank(middle, IMAGES // 2)):
        found, part, plans = cost(
            large,
            lambda s, after=after: ranked(
                s, 1, score, descending=descending, limit=PAGE, after=after
            ),
        )
        assert len(found) == PAGE
        assert found == sorted(found, reverse=descending)
        assert after is None or (found[0] < after if descending else found[0] > after)
        assert part < 1, plans


_HISTORY = (
    "INSERT INTO attempts (image_id, generation, event, solo, transaction_id)"
    " SELECT i, 1, 'done', false, CAST(CAST(i / 160 + 3 AS text) AS xid8)"
    f" FROM generate_series(1, {IMAGES}) AS i"
)
"""On PostgreSQL: as if the images of job 1 had become done in the server's first transactions."""


def test_what_is_new_costs_what_it_is(large: Database) -> None:
    """A page of it, wherever the reader stands; on SQLite it goes by ids alone."""
    if large.is_sqlite:
        return
    effort = Effort(large)
    with effort.reading() as session:
        for statement in (_HISTORY, "ANALYZE attempts"):
            session.connection().exec_driver_sql(statement)
        now, _ = finished_since(session, None)
        _, pages = finished_since(session, replace(now, position=3 + IMAGES // 320))
        found = next(pages)
    assert found == sorted(found)
    assert len(found) == PAGE_OF_NEW_IMAGES
    # Each line with its image, and the rest of the last transaction.
    assert effort.spent < 2 * (PAGE_OF_NEW_IMAGES + 160), effort.plans


@pytest.mark.parametrize(("steps", "found"), [(20, 1), (21, 0)])
def test_a_plan_looks_at_the_ends_of_a_job(large: Database, steps: int, found: int) -> None:
    kind = Kind(group_key="g", steps=steps, sampler="ddim")
    answer, part, plans = cost(large, lambda s: len(measured_rates(s, [kind])))
    assert answer == found
    assert part < 5, plans


def undo(session: Session, **images: str) -> None:
    """Make every image of job 1 ready, with these columns; the statistics still say: done."""
    columns = {"state": "'ready'", "object_id": "NULL", "outcome": "NULL"} | images
    values = ", ".join(f"{name} = {value}" for name, value in columns.items())
    for statement in (
        f"UPDATE images SET {values} WHERE job_id = 1",
        "UPDATE tallies SET state = 'ready' WHERE job_id = 1",
        "UPDATE jobs SET state = 'open' WHERE id = 1",
    ):
        session.connection().exec_driver_sql(statement)


def test_the_dispatcher_looks_past_any_number_of_images_that_wait(large: Database) -> None:
    waiting = {"suspect": "true", "error_code": "'render'", "not_before": "'2100-01-01 00:00:00'"}
    effort = Effort(large)
    with effort.reading() as session:
        undo(session, **waiting)
        effort.spent = 0
        assert due_images(session) == {"default": 1}
    assert effort.spent < (FEW_STEPS if large.is_sqlite else FEW_ROWS), effort.plans


@pytest.mark.parametrize("limited", [False, True])
def test_a_shift_costs_what_it_renders_whatever_the_statistics_say(
    large: Database, limited: bool
) -> None:
    """A job is loaded, and worked on, long before the planner hears of its images."""
    mill = Mill(large)
    mill.shift()
    shift = mill.shift()
    effort = Effort(large)
    with effort.reading() as session:
        undo(session, error_code="NULL", error_message="NULL")
        session.connection().exec_driver_sql("DELETE FROM objects WHERE id <= 8")
        if limited:
            set_max_workers(session, 1, 2)
            session.execute(update(JobSeat).values(shift_id=shift - 1))  # who holds nothing
        effort.spent = 0
        claimed = claims.claim(session, shift_id=shift, group_id=1, route="default", limit=8)
        assert [image.id for image in claimed] == list(range(1, 9))
        claims.begin(session, shift_id=shift, image_ids=[image.id for image in claimed])
        files = [stored_image(image.request_key) for image in claimed[:5]]
        objects.complete(session, shift_id=shift, environment_id=1, stored=files)
        objects.finish_known(session, shift_id=shift, request_keys=["r1000", "r2000"])
        claims.fail(session, shift_id=shift, image_id=6, failure=CRASH, policy=POLICY)
        claims.give_back(session, shift_id=shift)
    assert effort.spent < (FEW_STEPS if large.is_sqlite else FEW_ROWS), effort.plans


def test_an_object_is_deleted_without_a_look_at_every_image(large: Database) -> None:
    """The foreign key of `images.object_id` asks for every object that goes: by its index."""
    if large.is_sqlite:
        gone = delete(Object).where(Object.id == -1)
        _, part, plans = cost(large, lambda session: session.execute(gone))
        assert part < 1, plans
        return
    with large.reading() as session:
        # What the trigger asks, as PostgreSQL words it.
        asks = "EXPLAIN SELECT 1 FROM ONLY images x WHERE 7 = object_id FOR KEY SHARE OF x"
        plan = "\n".join(session.connection().exec_driver_sql(asks).scalars())
    assert "ix_images_object" in plan
