"""Loading chunk by chunk, on PostgreSQL beside planning: the same rows, and nothing half done."""

import gc
import json
import sys
import threading

import pytest
from sqlalchemy import select

from imagemill.db.database import Database
from imagemill.db.errors import ManifestError, UsageError
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.queries.jobs.new_images import NewImages
from imagemill.db.settings import Settings
from imagemill.db.shared_specs import SharedSpec
from imagemill.db.states import JobState
from imagemill.db.tables import Image, Job, Row
from imagemill.scheduler_jobs.submit import loader
from imagemill.scheduler_jobs.submit.planning import planned_rows
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit

MIXED = [
    {"prompt": "a {red|blue} circle", "seed": 5},
    {"prompt": "a red circle", "id": "x", "note": "tab\there, \\N"},
    {"prompt": "a red circle", "id": "x"},
    {"prompt": "a red circle"},
    {"prompt": "nan"},
    {"prompt": "a red circle", "steps": 7, "samples": 2},
    {"prompt": "a red circle"},
    {"steps": 7},
    {"prompt": "żółć, " * 40, "seeds": [1, 2**64 - 1]},
    {"prompt": "a blue star", "steps": 0},
    {"prompt": "a blue star", "width": 128, "negative_prompt": "a\\b\nc"},
    {"prompt": "{a|b|a} {c|d}", "id": "y", "extra": [1, {"z": None}]},
]


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings.load(
        broker_url="redis://127.0.0.1:1/0",  # nobody there
        storage_url=str(tmp_path / "objects"),
    )


@pytest.fixture
def send(database, settings, tmp_path):
    def sent(rows, *, name="manifest", **fields):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        request = SubmissionRequest(manifest=str(file), **fields)
        return submit(request, settings=settings, database=database)

    return sent


def recorded(database: Database, job_id: int):
    """What a job's rows and images say, without ids."""
    skipped = {"id", "job_id", "row_id", "group_id"}

    def said(each):
        return {
            column.name: getattr(each, column.name)
            for column in each.__table__.columns
            if column.name not in skipped
        }

    with database.reading() as session:
        rows = session.scalars(select(Row).where(Row.job_id == job_id).order_by(Row.number)).all()
        images = session.execute(
            select(Image, Row.number)
            .join(Row, Row.id == Image.row_id)
            .where(Image.job_id == job_id)
            .order_by(Row.number, Image.sample_index)
        )
        return [said(row) for row in rows], [(number, said(image)) for image, number in images]


def test_the_size_of_chunks_changes_nothing(send, database, monkeypatch):
    found = []
    for size in (1, 2, 5, 1000):
        monkeypatch.setattr(planned_rows, "CHUNK_ROWS", size)
        done = send(MIXED, skip_bad_rows=True, variants="all", grid=("guidance_scale=3,5",))
        found.append((recorded(database, done.job_id), done.problems, done.rows, done.bad_rows))
        # Then the same manifest is another job.
        database.run(lambda session, job_id=done.job_id: lifecycle.cancel(session, job_id))
        assert done.created
    (rows, images), problems, _, bad_rows = found[0]
    assert (len(rows), len(problems), bad_rows) == (len(MIXED), 4, 4)
    assert len(images) > 20
    assert all(each == found[0] for each in found)


def test_rows_are_written_for_the_database_by_the_thread_that_plans(
    postgres_database, settings, tmp_path, monkeypatch
):
    """So the one that loads has hardly anything to do but wait for the database."""
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    threads = set()

    def heard(real):
        return lambda *given: threads.add(threading.current_thread()) or real(*given)

    monkeypatch.setattr(job_rows, "_row_columns", heard(job_rows._row_columns))
    monkeypatch.setattr(NewImages, "columns", heard(NewImages.columns))
    monkeypatch.setattr(SharedSpec, "request_keys", heard(SharedSpec.request_keys))
    file = tmp_path / "manifest.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"prompt {n}"}) + "\n" for n in range(5)))
    request = SubmissionRequest(manifest=str(file))
    done = submit(request, settings=settings, database=postgres_database)
    assert done.requested == 5
    assert threads == {threading.current_thread()}


def test_rows_are_counted_one_by_one_only_where_a_key_comes_again(send, database, monkeypatch):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    counted = []
    real = loader.RowKeys.checked

    def heard(self, chunk, file):
        counted.append([row.number for row in chunk])
        return real(self, chunk, file)

    monkeypatch.setattr(loader.RowKeys, "checked", heard)
    done = send([{"prompt": each} for each in "aabcac"])
    assert counted == [[1, 2], [5, 6]]
    rows, _ = recorded(database, done.job_id)
    assert [row["key_occurrence"] for row in rows] == [0, 1, 0, 0, 2, 1]


@pytest.mark.parametrize("written", [0, 10_000])
def test_what_was_written_before_holds_only_where_the_database_changes_nothing(
    send, database, monkeypatch, written
):
    """Rows that are there already or equal to earlier ones, and images whose file is there."""
    monkeypatch.setattr(loader, "_WRITTEN_CHARACTERS", written)
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 3)
    rows = [{"prompt": f"prompt {n % 7}", "seed": n % 3, "note": f"{n}\\N"} for n in range(12)]
    real, calls = job_rows.insert_images, []

    def failing(session, job, images, **more):
        calls.append(len(images))
        if len(calls) == 3:
            raise UsageError("the third chunk fails")
        return real(session, job, images, **more)

    with monkeypatch.context() as patched:
        patched.setattr(job_rows, "insert_images", failing)
        with pytest.raises(UsageError, match="the third chunk fails"):
            send(rows)
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 5)
    done = send(rows)
    stored, images = recorded(database, done.job_id)
    assert [row["number"] for row in stored] == list(range(1, 13))
    assert [json.loads(json.dumps(row["extras"])) for row in stored] == [
        {"note": row["note"]} for row in rows
    ]
    assert [row["key_occurrence"] for row in stored] == [0] * 7 + [1] * 5
    assert [(number, image["prompt"], image["seed"]) for number, image in images] == [
        (number, row["prompt"], row["seed"]) for number, row in enumerate(rows, 1)
    ]
    # The same rows one by one, each written when it is sent.
    database.run(lambda session: lifecycle.cancel(session, done.job_id))
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 1)
    monkeypatch.setattr(loader, "_WRITTEN_CHARACTERS", 0)
    again = send(rows)
    assert recorded(database, again.job_id)[0] == stored
    keys = [image["request_key"] for _, image in images]
    assert [image["request_key"] for _, image in recorded(database, again.job_id)[1]] == keys


def test_an_error_while_loading_is_the_commands_and_the_next_command_goes_on(
    send, database, monkeypatch
):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    real, calls = job_rows.insert_images, []

    def failing(session, job, images, **more):
        calls.append(len(images))
        if len(calls) == 2:
            raise UsageError("the second chunk fails")
        return real(session, job, images, **more)

    rows = [{"prompt": f"prompt {n}"} for n in range(9)]
    monkeypatch.setattr(job_rows, "insert_images", failing)
    with pytest.raises(UsageError, match="the second chunk fails"):
        send(rows)
    assert calls == [2, 2], "nothing was loaded after the error"
    monkeypatch.setattr(job_rows, "insert_images", real)
    with database.reading() as session:
        job = session.scalars(select(Job)).one()
        assert (job.state, job.rows_loaded) == (JobState.LOADING, 2)
    done = send(rows)
    assert (done.job_id, done.created, done.requested) == (job.id, False, 9)


def test_what_interrupts_planning_loses_nothing(send, database, monkeypatch):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    before = sys.getswitchinterval(), gc.get_threshold()
    real = planned_rows.PlannedRow.of.__func__

    def interrupted(cls, row, *rest, **more):
        if row.number == 6:
            raise KeyboardInterrupt
        return real(cls, row, *rest, **more)

    rows = [{"prompt": f"prompt {n}"} for n in range(9)]
    monkeypatch.setattr(planned_rows.PlannedRow, "of", classmethod(interrupted))
    with pytest.raises(KeyboardInterrupt):
        send(rows)
    assert (sys.getswitchinterval(), gc.get_threshold()) == before
    monkeypatch.undo()
    for thread in threading.enumerate():
        if thread.name == "loader":
            thread.join(60)  # of the chunk that was under way
    with database.reading() as session:
        assert session.scalars(select(Job)).one().rows_loaded == 4
    assert send(rows).requested == 9


def test_a_bad_row_in_a_later_chunk_leaves_nothing(send, database, monkeypatch):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    with pytest.raises(ManifestError) as caught:
        send([*({"prompt": f"prompt {n}"} for n in range(7)), {"steps": 3}, {"prompt": "nan"}])
    assert [problem.row for problem in caught.value.problems] == [8, 9]
    with database.reading() as session:
        assert session.scalars(select(Job.state)).all() == [JobState.REJECTED]
        assert session.scalars(select(Row)).all() == []


def test_ctrl_c_does_not_wait_for_a_database_that_does_not_answer(
    postgres_database, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    asked, answered = threading.Event(), threading.Event()
    real = job_rows.insert_images

    def silent(session, job, images, **more):
        asked.set()
        assert answered.wait(60)
        return real(session, job, images, **more)

    made = planned_rows.PlannedRow.of.__func__

    def interrupted(cls, row, *rest, **more):
        if row.number == 3:
            assert asked.wait(60)
            raise KeyboardInterrupt
        return made(cls, row, *rest, **more)

    file = tmp_path / "manifest.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"prompt {n}"}) + "\n" for n in range(5)))
    monkeypatch.setattr(job_rows, "insert_images", silent)
    monkeypatch.setattr(planned_rows.PlannedRow, "of", classmethod(interrupted))
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        submit(SubmissionRequest(manifest=str(file)), settings=settings, database=postgres_database)
    new = set(threading.enumerate()) - before
    [thread] = [each for each in new if each.name == "loader"]
    assert thread.daemon
    answered.set()
    thread.join(60)


def test_statements_of_earlier_chunks_do_not_stay_in_the_memory(send, monkeypatch):
    """Each holds its chunk's keys, in cycles that Python's collector would hardly ever look for."""
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 1)
    collected = []
    monkeypatch.setattr(loader.gc, "collect", lambda: collected.append(gc.get_count()))
    send([{"prompt": f"prompt {number}"} for number in range(17)])
    assert len(collected) == 2
