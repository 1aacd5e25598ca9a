"""Jobs: loading, opening, steering, retrying, finishing and finding them; and their counts."""

import pytest
from sqlalchemy import func, select

from imagemill.db.errors import ManifestError, UnknownJob, UsageError
from imagemill.db.queries.fleet import reports
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.queries.jobs.job_rows import NewRow
from imagemill.db.queries.tallies import Counts
from imagemill.db.seeds import row_key
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Image, Row, Tally
from tests.helpers.backlog import ready_images
from tests.helpers.mill import DIGEST, REFUSED, Mill, sha, spec


def prompts(count: int) -> list[str]:
    return [f"prompt {n}" for n in range(count)]


def kill(mill: Mill, count: int) -> list[int]:
    """Let that many images die; their ids."""
    shift = mill.shift()
    held = mill.claim(shift, limit=count)
    for image in held:
        mill.fail(shift, image.id, REFUSED)
    return [image.id for image in held]


# Loading -----------------------------------------------------------------------------------


def test_the_same_submission_is_the_same_job(mill: Mill) -> None:
    first = mill.create("job")
    assert mill.create("job") == first
    mill.database.run(lambda session: lifecycle.open_job(session, first))
    mill.finish_jobs()
    assert mill.job(first).state == JobState.FINISHED
    assert mill.create("job") == first


def test_a_cancelled_submission_can_be_made_again(mill: Mill) -> None:
    first = mill.create("job")
    mill.cancel(first)
    assert mill.create("job") != first


def test_what_a_submission_says_is_kept(mill: Mill) -> None:
    job = mill.job(mill.create("job", priority=3, route="80gb"))
    assert (job.name, job.priority, job.route, job.state) == ("job", 3, "80gb", "loading")
    assert (job.defaults, job.seed, job.rows_loaded) == ({"steps": 20}, 0, 0)
    assert job.manifest_sha256 == sha("job")


def test_rows_keep_their_order_and_everything_they_said(mill: Mill) -> None:
    job_id = mill.create("job")

    def load(session):
        job = job_rows.lock_loading(session, job_id)
        rows = [
            NewRow(
                number=n,
                line=2 * n,
                verbatim=f'{{"prompt": "\\u200b{n}"}}',
                extras={"Category": "Öl", "n": n},
                key_base="prompt:x",
                key_occurrence=n - 1,
                template="{a|b}",
            )
            for n in range(1, 2501)
        ]
        bad = NewRow(
            number=2501, line=9, verbatim="???", extras={}, key_base=None, problem="no prompt"
        )
        return job_rows.insert_rows(session, job, [*rows, bad])

    ids = mill.database.run(load)
    with mill.database.reading() as session:
        found = session.scalars(select(Row).order_by(Row.number)).all()
        assert [row.id for row in found] == ids
        assert (found[6].line, found[6].extras) == (14, {"Category": "Öl", "n": 7})
        assert found[-1].problem == "no prompt"
        assert row_key(found[6].key_base, found[6].key_occurrence) == "prompt:x#6"
        counted = job_rows.count_key_bases(session, job_id, ["prompt:x", "id:9"])
        assert counted == {"prompt:x": 2500}
        assert counted["id:9"] == 0


def test_images_keep_their_whole_specification(mill: Mill) -> None:
    from dataclasses import replace

    from imagemill.db.specs import Adapter

    full = replace(
        spec("a “prompt”"),
        negative_prompt="blurry",
        seed=2**62,
        guidance_scale=7.25,
        sampler_options=(("eta", 0.5), ("sigmas", "karras")),
        init_image=sha("init"),
        strength=0.75,
        clip_skip=2,
        adapters=(Adapter(name="style", digest=sha("style"), weight=0.5),),
        format="jpeg",
        quality=90,
    )
    mill.load("job", [full, spec("plain")])
    shift = mill.shift()
    claimed = {image.spec.prompt: image.spec for _ in range(2) for image in mill.claim(shift)}
    assert claimed == {full.prompt: full, "plain": spec("plain")}
    assert all(image.request_key() == claimed[image.prompt].request_key() for image in (full,))


def test_loading_is_over_once_the_job_is_open(mill: Mill) -> None:
    job = mill.load("job", ["a"])
    with pytest.raises(UsageError, match=f"job {job} is open"):
        mill.insert(job, [spec("b")])
    assert not mill.database.run(lambda session: lifecycle.open_job(session, job))


def test_an_unopened_jobs_images_are_counted_but_not_offered(mill: Mill) -> None:
    job = mill.load("job", prompts(3), opened=False)
    assert mill.counts(job) == Counts(ready=3)
    assert mill.database.run(ready_images) == {}
    assert mill.finish_jobs() == 0


def test_a_rejected_job_leaves_nothing_behind(mill: Mill) -> None:
    other = mill.load("other", ["prompt 0"])
    job = mill.load("job", prompts(3), opened=False)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    assert mill.counts(other).done == 1

    def reject(session):
        return lifecycle.reject(session, job, message="job.csv: 1 bad row")

    assert mill.database.run(reject)
    assert not mill.database.run(reject)
    assert mill.job(job).message == "job.csv: 1 bad row"
    with mill.database.reading() as session:
        for table in (Image, Row, Tally):
            query = select(func.count()).select_from(table).where(table.job_id == job)
            assert session.scalar(query) == 0
    with mill.database.reading() as session:
        # Nobody who lists jobs or asks for the newest meets what is left of it.
        assert [report.id for report in reports.list_jobs(session)] == [other]
        assert [report.id for report in reports.list_jobs(session, states=[JobState.REJECTED])] == [
            job
        ]
        assert lifecycle.find_job(session, "latest").id == other
        assert lifecycle.find_job(session, str(job)).id == job
        with pytest.raises(UnknownJob):
            lifecycle.find_job(session, "job")
    assert mill.create("job") != job


def test_who_still_loads_a_rejected_job_is_told_why(mill: Mill) -> None:
    job = mill.load("job", prompts(3), opened=False)
    mill.database.run(lambda session: lifecycle.reject(session, job, message="job.csv: 1 bad row"))
    with pytest.raises(ManifestError, match=r"job\.csv: 1 bad row; another process"):
        mill.database.run(lambda session: job_rows.lock_loading(session, job))


def test_a_model_is_recorded_once_per_digest(mill: Mill) -> None:
    def register(session, name="again", digest=DIGEST):
        return job_rows.register_model(
            session, name=name, weights_digest=digest, source="hub", document={"defaults": {}}
        )

    first = mill.database.run(register)
    assert mill.database.run(lambda session: register(session, "renamed")) == first
    assert mill.database.run(lambda session: register(session, "b", sha("b"))) != first


# Steering ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "allowed", "target"),
    [
        ("open_job", {"loading"}, "open"),
        ("pause", {"open"}, "paused"),
        ("resume", {"paused"}, "open"),
        ("cancel", {"loading", "open", "paused"}, "cancelled"),
        ("finish", {"open"}, "finished"),
    ],
)
def test_a_job_moves_only_from_where_it_may(
    mill: Mill, action: str, allowed: set[str], target: str
) -> None:
    for state in JobState:
        job = mill.create(f"{action} from {state}")
        _bring(mill, job, state)
        if action == "finish":
            moved = mill.finish_jobs() == 1
        else:
            moved = mill.database.run(lambda session, j=job: getattr(lifecycle, action)(session, j))
        assert moved == (state in allowed), state
        assert mill.job(job).state == (target if moved else state)
        mill.cancel(job)


def _bring(mill: Mill, job: int, state: JobState) -> None:
    steps = {
        JobState.LOADING: (),
        JobState.OPEN: (lifecycle.open_job,),
        JobState.PAUSED: (lifecycle.open_job, lifecycle.pause),
        JobState.FINISHED: (lifecycle.open_job, lambda session, _: lifecycle.finish_jobs(session)),
        JobState.CANCELLED: (lifecycle.cancel,),
        JobState.REJECTED: (lambda session, j: lifecycle.reject(session, j, message="bad"),),
    }
    for step in steps[state]:
        mill.database.run(lambda session, s=step: s(session, job))
    assert mill.job(job).state == state


def test_cancelling_stops_at_once_what_nobody_holds(mill: Mill) -> None:
    job = mill.load("job", prompts(6))
    shift = mill.shift()
    held = mill.claim(shift, limit=2)
    assert mill.cancel(job)
    assert mill.counts(job) == Counts(leased=2, cancelled=4)
    mill.give_back(shift)
    assert mill.counts(job) == Counts(cancelled=6)
    assert mill.events(held[0].id) == ["cancelled"]
    found = mill.job(job)
    assert found.finished_at is not None


def test_stragglers_of_cancelled_jobs_are_cancelled(mill: Mill) -> None:
    """Given back in the very moment of the cancellation, an image may be ready again."""
    job = mill.load("job", prompts(3))
    running = mill.load("running", ["x"])
    mill.database.run(
        lambda session: lifecycle._move_job(
            session, job, sources=(JobState.OPEN,), target=JobState.CANCELLED
        )
    )
    assert mill.cancel_stragglers() == 3
    assert mill.cancel_stragglers() == 0
    assert mill.counts(job) == Counts(cancelled=3)
    assert mill.counts(running) == Counts(ready=1)


def test_cancelling_takes_as_many_statements_as_it_needs(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_IMAGES_A_STATEMENT", 3)
    job = mill.load("job", prompts(10))
    mill.cancel(job)
    assert mill.counts(job) == Counts(cancelled=10)


def test_a_large_job_is_cancelled_in_several_transactions(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CANCELLED_AT_ONCE", 4)
    monkeypatch.setattr(lifecycle, "_IMAGES_A_STATEMENT", 3)
    job = mill.load("job", [f"p{n}" for n in range(10)])
    other = mill.load("other", ["a", "b"])
    assert mill.cancel(job)
    assert mill.counts(job) == Counts(ready=6, cancelled=4)
    assert mill.claim(mill.shift(), group_id=mill.images(job)[0].group_id)[0].job_id == other
    assert mill.cancel(other)
    assert [mill.cancel_stragglers() for _ in range(3)] == [4, 2, 0]
    assert mill.counts(job) == Counts(cancelled=10)


def test_a_retry_opens_a_new_generation(mill: Mill) -> None:
    job = mill.load("job", prompts(3))
    dead = kill(mill, 2)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    mill.finish_jobs()
    assert mill.retry(job) == 2
    assert mill.retry(job) == 0
    found = mill.job(job)
    assert (found.state, found.finished_at) == (JobState.OPEN, None)
    image = mill.image(dead[0])
    assert (image.state, image.generation, image.failures) == (ImageState.READY, 2, 0)
    assert (image.suspect, image.error_code, image.not_before) == (True, None, None)
    [again] = mill.claim(mill.shift())
    assert again.solo
    assert mill.events(again.id) == ["dead", "retried"]
    assert mill.finish_jobs() == 0


def test_a_retry_may_choose_by_what_went_wrong(mill: Mill) -> None:
    job = mill.load("job", prompts(2))
    kill(mill, 1)
    assert mill.retry(job, ["out_of_memory"]) == 0
    assert mill.retry(job, ["out_of_memory", REFUSED.code]) == 1


@pytest.mark.parametrize(("stop", "retried"), [(lifecycle.cancel, 0), (lifecycle.pause, 1)])
def test_a_retry_in_a_stopped_job(mill: Mill, stop, retried: int) -> None:
    job = mill.load("job", prompts(1))
    kill(mill, 1)
    mill.database.run(lambda session: stop(session, job))
    state = mill.job(job).state
    assert mill.retry(job) == retried
    assert mill.job(job).state == state


def test_a_job_finishes_when_nothing_is_left_to_do(mill: Mill) -> None:
    job = mill.load("job", prompts(2))
    shift = mill.shift()
    first, second = mill.claim(shift)
    mill.fail(shift, first.id, REFUSED)
    assert mill.finish_jobs() == 0
    mill.complete(shift, [second])
    assert mill.finish_jobs() == 1
    assert mill.finish_jobs() == 0
    assert mill.job(job).finished_at is not None


def test_a_retry_and_the_finisher_do_not_cross(postgres_database) -> None:
    """The finisher must not act on counts from before a retry that commits meanwhile."""
    mill = Mill(postgres_database)
    job = mill.load("job", prompts(1))
    kill(mill, 1)
    with mill.database.writing() as session:
        assert lifecycle.retry(session, job) == 1
        assert mill.finish_jobs() == 0
    assert mill.finish_jobs() == 0
    assert mill.job(job).state == JobState.OPEN
    assert mill.audit() == []


def test_two_submissions_at_one_moment_make_one_job(postgres_database) -> None:
    from concurrent.futures import ThreadPoolExecutor

    mill = Mill(postgres_database)
    with ThreadPoolExecutor(4) as pool:
        for n in range(10):
            assert len(set(pool.map(mill.create, [f"job {n}"] * 4))) == 1


# Finding -----------------------------------------------------------------------------------


def test_a_job_is_found_by_id_name_or_latest(mill: Mill) -> None:
    first = mill.create("monday")
    mill.cancel(first)
    second = mill.create("monday")
    numbered = mill.create("2026")

    def found(reference: str) -> int:
        with mill.database.reading() as session:
            return lifecycle.find_job(session, reference).id

    assert found(str(first)) == first
    assert found("monday") == second
    assert found("latest") == numbered
    assert found("2026") == numbered
    for unknown in ("tuesday", "0", "-1", "9" * 30, "²", "1e3", "' OR 1=1 --"):
        with pytest.raises(UnknownJob, match="imagemill jobs"):
            found(unknown)
