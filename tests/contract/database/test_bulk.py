"""Many rows at once: the same rows on both databases, whatever is in them, and once only."""

import pytest
from sqlalchemy import event, exc, select, text
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.queries.bulk import among, insert_few, insert_many
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.queries.jobs.job_rows import NewRow
from imagemill.db.tables import Image, RemovedObject, Row
from tests.helpers.mill import Mill, spec

AWKWARD = (
    "tab\there",
    "line\nbreak\r\n",
    "\\N",
    "\\.",
    "back\\slash \\t \\x41",
    "\"quoted\", and 'so'",
    "{braces},NULL",
    "żółć 🦊 \u202e bidi",
    "",
)
"""Texts that COPY, CSV or an array's notation could mistake for their own signs."""


def rows_of(first: int, texts) -> list[NewRow]:
    return [
        NewRow(
            number=number,
            line=number,
            verbatim=each,
            extras={"note": each, "n": [1, None, 2.5, True]},
            key_base=f"id:{number}",
            template=each or None,
        )
        for number, each in enumerate(texts, first)
    ]


def stored_rows(mill: Mill, job_id: int) -> list[Row]:
    with mill.database.reading() as session:
        return list(session.scalars(select(Row).where(Row.job_id == job_id).order_by(Row.number)))


@pytest.fixture
def job(mill):
    job_id = mill.load("job", ["a"], opened=False)
    yield job_id
    # The rows that a test inserts have no images; the promises are about rows that do.
    mill.database.run(lambda session: lifecycle.reject(session, job_id, message="end of the test"))


def insert(mill: Mill, job_id: int, rows: list[NewRow]) -> list[int]:
    def work(session):
        job = job_rows.lock_loading(session, job_id)
        return job_rows.insert_rows(session, job, rows)

    return mill.database.run(work)


def test_every_text_arrives_as_it_was(mill, job):
    ids = insert(mill, job, rows_of(2, AWKWARD))
    found = stored_rows(mill, job)[1:]
    assert [row.id for row in found] == ids
    for row, given in zip(found, AWKWARD, strict=True):
        assert row.verbatim == given
        assert row.extras == {"note": given, "n": [1, None, 2.5, True]}
        assert row.template == (given or None)
        assert row.problem is None


def test_prompts_arrive_too_and_columns_left_out_get_their_defaults(mill):
    job_id = mill.load("prompts", [spec(each or " ") for each in AWKWARD])
    images = mill.images(job_id)
    assert [image.prompt for image in images] == [each or " " for each in AWKWARD]
    assert {image.generation for image in images} == {1}
    assert {image.suspect for image in images} == {False}
    assert {image.failures for image in images} == {0}
    assert {(image.shift_id, image.not_before, image.object_id) for image in images} == {
        (None, None, None)
    }


def test_ids_come_in_the_order_of_the_rows_given(mill, job):
    rows = rows_of(2, ["b", "c", "d"])
    ids = insert(mill, job, rows[::-1])
    by_number = {row.number: row.id for row in stored_rows(mill, job)}
    assert ids == [by_number[4], by_number[3], by_number[2]]


def test_nothing_is_inserted_of_nothing(mill, job):
    before = [row.id for row in stored_rows(mill, job)]
    with mill.database.writing() as session:
        insert_many(session, Row, [])
    assert [row.id for row in stored_rows(mill, job)] == before


def test_a_constraint_is_an_error_like_any_others(mill, job):
    with pytest.raises(exc.IntegrityError):
        insert(mill, job, rows_of(1, ["number 1 is there"]))
    assert len(stored_rows(mill, job)) == 1


def test_among_finds_what_is_in(mill):
    job_id = mill.load("job", list("abc"))
    wanted = [image.request_key for image in mill.images(job_id)[:2]]
    with mill.database.reading() as session:
        query = select(Image.request_key).where(among(session, Image.request_key, wanted))
        assert sorted(session.scalars(query)) == sorted(wanted)
        assert session.scalars(select(Image.id).where(among(session, Image.id, []))).all() == []


def test_a_connection_lost_before_a_copy_is_opened_again(postgres_database: Database):
    """The rows are there once: what the first attempt did went with its transaction."""
    mill = Mill(postgres_database)
    job_id = mill.create("job")
    attempts = []

    def work(session):
        job = job_rows.lock_loading(session, job_id)
        attempts.append(job.id)
        job_rows.insert_rows(session, job, rows_of(1, ["first"]))
        if len(attempts) == 1:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            with mill.database.writing() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        job_rows.insert_rows(session, job, rows_of(2, ["second"]))

    mill.database.run(work)
    assert len(attempts) == 2
    assert [row.verbatim for row in stored_rows(mill, job_id)] == ["first", "second"]


def files(*keys: str, size: int = 1) -> list[dict]:
    return [{"object_key": key, "request_key": "r" * 64, "size_bytes": size} for key in keys]


def test_a_few_rows_arrive_and_those_that_are_there_stay(mill):
    def work(session):
        insert_few(session, RemovedObject, [])
        insert_few(session, RemovedObject, files(AWKWARD[0], AWKWARD[2]))
        insert_few(session, RemovedObject, files(*AWKWARD, size=2**40), unless_there=True)

    mill.database.run(work)
    with mill.database.reading() as session:
        found = {row.object_key: row for row in session.scalars(select(RemovedObject))}
    assert set(found) == set(AWKWARD)
    assert {key for key, row in found.items() if row.size_bytes == 1} == {AWKWARD[0], AWKWARD[2]}
    assert all(row.at is not None for row in found.values())


def test_a_few_rows_that_are_there_are_an_error_where_nobody_expects_them(mill):
    with mill.database.writing() as session:
        insert_few(session, RemovedObject, files("a"))
        with pytest.raises(exc.IntegrityError):
            insert_few(session, RemovedObject, files("b", "a"))
        session.rollback()


def test_one_text_inserts_any_number_of_rows_and_cuts_no_value(postgres_database):
    texts = []
    event.listen(
        postgres_database.engine, "before_cursor_execute", lambda *call: texts.append(call[2])
    )
    for count in (1, 2, 7):
        keys = [f"{count}-{number}" for number in range(count)]
        postgres_database.run(lambda session, k=keys: insert_few(session, RemovedObject, files(*k)))
    assert len(set(texts)) == 1
    long = [{**files("long")[0], "request_key": "r" * 65}]
    with pytest.raises(exc.DataError), postgres_database.engine.begin() as connection:
        insert_few(Session(connection), RemovedObject, long)
