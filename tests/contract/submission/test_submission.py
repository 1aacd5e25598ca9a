"""Planning and submitting, on both databases: what ends up recorded, and what never does."""

import json
from pathlib import Path

import pytest
from PIL import Image as Picture
from sqlalchemy import select, text

from imagemill.db.database import Database
from imagemill.db.errors import ManifestError
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.image_reports import find_image
from imagemill.db.queries.tallies import count_images
from imagemill.db.seeds import derive_seed, prompt_hash
from imagemill.db.settings import Settings
from imagemill.db.states import ImageState, JobState
from imagemill.db.storage.factory import open_storage
from imagemill.db.tables import Image, Job, Row
from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.submit import loader
from imagemill.scheduler_jobs.submit.plan import plan
from imagemill.scheduler_jobs.submit.planning import planned_rows
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit
from tests.helpers.mill import Mill


@pytest.fixture
def settings(tmp_path) -> Settings:
    (tmp_path / "inputs").mkdir()
    return Settings.load(
        # Nobody listens there: submitting must not need the broker.
        broker_url="redis://127.0.0.1:1/0",
        storage_url=str(tmp_path / "objects"),
        inputs_folder=tmp_path / "inputs",
    )


@pytest.fixture
def send(database, settings, tmp_path):
    """Submit rows (a list of prompts or of JSON objects) with any fields of the request."""

    def sent(rows, *, name="manifest", **fields):
        file = tmp_path / f"{name}.jsonl"
        write(file, rows)
        request = SubmissionRequest(manifest=str(file), **fields)
        return submit(request, settings=settings, database=database)

    return sent


def write(file: Path, rows) -> None:
    objects = [{"prompt": row} if isinstance(row, str) else row for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in objects))


def images(database: Database, job_id: int) -> list[Image]:
    with database.reading() as session:
        return list(session.scalars(select(Image).where(Image.job_id == job_id).order_by(Image.id)))


def test_every_sample_of_every_row_becomes_an_image_with_the_models_defaults(send, database):
    done = send(["a red circle", {"prompt": "a blue star", "samples": 2, "steps": 7}])
    assert (done.created, done.rows, done.requested, done.ready) == (True, 2, 3, 3)
    recorded = images(database, done.job_id)
    assert [(i.prompt, i.sample_index, i.steps) for i in recorded] == [
        ("a red circle", 0, 20),
        ("a blue star", 0, 7),
        ("a blue star", 1, 7),
    ]
    assert {(i.width, i.height, i.sampler, i.model) for i in recorded} == {
        (64, 64, recorded[0].sampler, "shapes64")
    }
    with database.reading() as session:
        assert find_job(session, "latest").state == JobState.OPEN


def test_layers_row_then_job_then_model(send, database):
    rows = ["a", {"prompt": "b", "guidance_scale": 2}]
    done = send(rows, defaults=Parameters(guidance_scale=3, negative_prompt="blur"))
    first, second = images(database, done.job_id)
    assert (first.guidance_scale, first.negative_prompt, first.steps) == (3, "blur", 20)
    assert (second.guidance_scale, second.negative_prompt) == (2, "blur")


def test_seeds_are_derived_from_the_row_and_not_from_its_place(send, database):
    def seeds(rows, name, **fields):
        job_id = send(rows, name=name, **fields).job_id
        return {(i.prompt, i.sample_index): i.seed for i in images(database, job_id)}

    before = seeds(["a", "b"], "before")
    after = seeds(["new", "b", "a"], "after")
    assert {key: after[key] for key in before} == before
    expected = derive_seed(job_seed=0, row_key=f"prompt:{prompt_hash('a')}#0", sample_index=0)
    assert before["a", 0] == expected
    assert seeds(["a", "b"], "other", seed=1) != before


def test_equal_prompts_get_different_seeds_also_across_chunks(send, database, monkeypatch):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    recorded = images(database, send(["a"] * 5).job_id)
    assert len({image.seed for image in recorded}) == 5


def test_seeds_of_the_row_win(send, database):
    rows = [
        {"prompt": "a", "seed": 5, "samples": 2},
        {"prompt": "b", "seeds": [9, 3]},
        {"prompt": "c", "seed": -1},
    ]
    recorded = images(database, send(rows).job_id)
    assert [image.seed for image in recorded[:4]] == [5, 6, 9, 3]
    derived = derive_seed(job_seed=0, row_key=f"prompt:{prompt_hash('c')}#0", sample_index=0)
    assert recorded[4].seed == derived


def test_the_same_manifest_again_adds_nothing(send, database):
    first = send(["a", "b"])
    again = send(["a", "b"])
    assert (again.created, again.job_id) == (False, first.job_id)
    assert len(images(database, first.job_id)) == 2


def test_an_edited_manifest_is_a_new_job_that_reuses_what_is_there(send, database):
    mill = Mill(database)
    first = send(["a", "b", "c"])
    shift_id = mill.shift()
    mill.complete(shift_id, mill.claim(shift_id))
    edited = send(["a", "B", "c"])
    assert (edited.created, edited.reused, edited.ready) == (True, 2, 1)
    assert edited.job_id != first.job_id


def test_a_bad_row_rejects_the_job_and_leaves_nothing(send, database):
    rows = ["a", {"prompt": "b", "steps": "many"}, {"prompt": "c", "width": 65}]
    with pytest.raises(ManifestError) as caught:
        send(rows)
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == 2
    assert "manifest.jsonl:2: steps: " in lines[0]
    assert "manifest.jsonl:3: width: 65" in lines[1]
    with database.reading() as session:
        assert session.scalars(select(Job.state)).all() == [JobState.REJECTED]
        assert session.execute(text("SELECT count(*) FROM images")).scalar() == 0
        assert session.execute(text("SELECT count(*) FROM tallies")).scalar() == 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"sampler_options": {"timestep_spacng": "trailing"}},
            "an unknown option 'timestep_spacng'; did you mean timestep_spacing?",
        ),
        (
            {"sampler_options": '{"beta_schedule": "nonsense"}'},
            "beta_schedule = 'nonsense'; beta_schedule: linear, scaled_linear, squaredcos_cap_v2",
        ),
        (
            {"sampler": "euler_a", "sampler_options": {"sigmas": "karras"}},
            "euler_a: sigmas = 'karras'; sigmas: default for this sampler",
        ),
        (
            {"sampler": "own", "sampler_options": {"solver_order": 2}},
            "own: solver_order, which this sampler does not take; one of ",
        ),
    ],
)
def test_a_wrong_sampler_option_is_known_before_anything_is_queued(
    send, database, settings, tmp_path, row, says
):
    rows = [{"prompt": "good"}, {"prompt": "a cat"} | row]
    with pytest.raises(ManifestError) as caught:
        send(rows)
    (problem,) = caught.value.problems
    assert f"manifest.jsonl:2: sampler_options: {says}" in str(problem)
    assert "\n" not in str(problem)
    with database.reading() as session:
        assert session.scalars(select(Image)).all() == []
    request = SubmissionRequest(manifest=str(tmp_path / "manifest.jsonl"))
    planned = plan(request, settings=settings, database=None)
    assert [str(each) for each in planned.problems] == [str(problem)]


def test_a_jobs_option_is_held_against_the_sampler_of_each_row(send):
    defaults = Parameters(sampler_options={"solver_order": 3})
    with pytest.raises(ManifestError) as caught:
        send(
            [{"prompt": "a", "sampler": "dpmpp_2m"}, {"prompt": "b", "sampler": "ddim"}],
            defaults=defaults,
        )
    (problem,) = caught.value.problems
    assert problem.row == 2


def test_bad_rows_can_be_skipped_and_are_recorded(send, database):
    done = send(["a", {"prompt": "b", "steps": 0}, "c"], skip_bad_rows=True)
    assert (done.requested, done.bad_rows, len(done.problems)) == (2, 1, 1)
    with database.reading() as session:
        bad = session.scalars(select(Row).where(Row.problem.is_not(None))).one()
    assert bad.number == 2
    assert "steps" in bad.problem


def test_a_repeated_id_is_a_bad_row_also_across_chunks(send, monkeypatch):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 1)
    rows = [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "y"}, {"prompt": "c", "id": "x"}]
    with pytest.raises(ManifestError, match="1 bad row") as caught:
        send(rows)
    assert "manifest.jsonl:3: id: 'x', which an earlier row has" in str(caught.value.problems[0])


def test_a_killed_producer_goes_on_where_it_stopped(send, database, monkeypatch):
    monkeypatch.setattr(planned_rows, "CHUNK_ROWS", 2)
    rows = [f"prompt {n % 3}" for n in range(9)]
    insert = loader.JobLoader._insert
    chunks = []

    def killed(self, session, chunk):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(chunk)
        return insert(self, session, chunk)

    monkeypatch.setattr(loader.JobLoader, "_insert", killed)
    with pytest.raises(KeyboardInterrupt):
        send(rows)
    with database.reading() as session:
        job = find_job(session, "latest")
        assert (job.state, job.rows_loaded) == (JobState.LOADING, 4)
    monkeypatch.setattr(loader.JobLoader, "_insert", insert)
    done = send(rows)
    assert (done.job_id, done.created, done.requested) == (job.id, False, 9)
    recorded = images(database, job.id)
    assert [image.prompt for image in recorded] == rows
    assert len({image.seed for image in recorded}) == 9


def test_unknown_columns_and_the_verbatim_line_are_kept(send, database):
    row = {"prompt": "a", "tag": "single_object", "include": [{"class": "bench", "count": 1}]}
    job_id = send([row]).job_id
    with database.reading() as session:
        image = session.scalars(select(Image.id).where(Image.job_id == job_id)).one()
        shown = find_image(session, image)
    assert shown.extras == {"tag": row["tag"], "include": row["include"]}
    assert json.loads(shown.verbatim) == row


def test_the_cells_of_a_grid_share_the_seed(send, database):
    done = send(["a", "b"], grid=("guidance_scale=3,5", "sampler=ddim,euler"))
    recorded = images(database, done.job_id)
    assert len(recorded) == 8
    by_prompt = {p: {i.seed for i in recorded if i.prompt == p} for p in ("a", "b")}
    assert all(len(seeds) == 1 for seeds in by_prompt.values())
    assert len({(i.guidance_scale, i.sampler) for i in recorded}) == 4


def test_variants_keep_the_template_and_the_resolved_prompts(send, database):
    job_id = send(["a {red|blue} circle"], variants="all").job_id
    recorded = images(database, job_id)
    assert [image.prompt for image in recorded] == ["a red circle", "a blue circle"]
    assert len({image.seed for image in recorded}) == 2
    with database.reading() as session:
        stored = session.scalars(select(Row).where(Row.job_id == job_id)).one()
    assert stored.template == "a {red|blue} circle"


def test_an_init_image_is_named_by_its_content_and_kept_in_the_store(send, database, settings):
    picture = settings.inputs_folder / "start.png"
    Picture.new("RGB", (64, 64), "red").save(picture)
    rows = [{"prompt": "a", "init_image": "start.png", "start_step": 5, "steps": 20}]
    (image,) = images(database, send(rows).job_id)
    digest = image.options["init_image"]
    assert image.options["strength"] == 0.75
    kept = Path(settings.storage_url) / "inputs" / digest[:2] / digest
    assert kept.read_bytes() == picture.read_bytes()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.png", "No such file"),
        ("link.png", "leaves the inputs folder"),
        ("loop.png", "Too many levels of symbolic links"),
        ("s3://elsewhere/x.png", "an object under"),
        ("0" * 64, "not in the store"),
    ],
)
def test_an_init_image_from_anywhere_else_is_refused(send, settings, tmp_path, name, says):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (settings.inputs_folder / "link.png").symlink_to(tmp_path / "secret.png")
    (settings.inputs_folder / "loop.png").symlink_to("loop.png")
    open_storage(settings).probe()
    with pytest.raises(ManifestError) as caught:
        send([{"prompt": "a", "init_image": name}])
    assert says in str(caught.value.problems[0])


def test_planning_counts_and_changes_nothing(database, settings, tmp_path):
    file = tmp_path / "manifest.jsonl"
    long = "a red circle " * 20
    write(file, ["a", {"prompt": long, "samples": 3}, {"prompt": "c", "steps": 0}])
    planned = plan(SubmissionRequest(manifest=str(file)), settings=settings, database=database)
    assert (planned.rows, planned.images, planned.bad_rows, planned.reused) == (2, 4, 1, 0)
    assert planned.long_prompts == 3
    (first,) = planned.long_prompt_rows
    assert (first.file, first.row) == (None, 2)
    assert long.rstrip().endswith(first.text.rstrip())
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM jobs")).scalar() == 0


def test_counts_agree_with_the_images(send, database):
    job_id = send(["a", {"prompt": "b", "samples": 4}]).job_id
    with database.reading() as session:
        counts = count_images(session, [job_id])[job_id]
    assert counts.requested == counts.ready == 5
    assert {image.state for image in images(database, job_id)} == {ImageState.READY}
