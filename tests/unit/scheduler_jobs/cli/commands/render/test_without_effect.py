"""Values of rows that would change nothing beside others: refused, passed over, or told of."""

import json

import pytest

from imagemill.scheduler_jobs.api.requests.generation import read_generation

pytestmark = pytest.mark.usefixtures("no_broker")


@pytest.fixture
def rows(tmp_path):
    """Writes rows of JSON Lines, and returns their file."""

    def written(*each):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps({"prompt": f"p{n}"} | row) + "\n" for n, row in each))
        return file

    return lambda *each: written(*enumerate(each))


def files_of(mill):
    """Format and quality of every image that a worker would get, in the order of the rows."""
    shift, found = mill.shift(), []
    while claimed := mill.claim(shift):
        found += [(image.spec.prompt, image.spec.format, image.spec.quality) for image in claimed]
    return [tuple(rest) for _, *rest in sorted(found)]


@pytest.mark.parametrize("row", [{"quality": 90}, {"quality": 90, "format": "png"}])
def test_a_rows_own_quality_beside_png_is_refused(at_home, rows, row):
    file = rows(row)
    answer = at_home("submit", file)
    assert answer.code == 2
    said = f"{file}:1: quality: 90; none, or format jpeg or webp: a PNG is lossless"
    assert answer.err.splitlines()[0] == said
    assert at_home("jobs", "--json").json["jobs"] == []


def test_a_cell_of_a_grid_is_a_row_of_its_own(at_home, rows):
    assert at_home("plan", rows({}), "--grid", "quality=80,90").code == 2
    assert at_home("plan", rows({"format": "webp"}), "--grid", "quality=80,90").code == 0


@pytest.mark.parametrize("options", [("--quality", 90), ("--quality", 90, "--image-format", "png")])
def test_a_quality_for_pictures_that_are_all_png_is_refused(at_home, rows, options):
    file = rows({}, {})
    for command in ("plan", "submit"):
        answer = at_home(command, file, *options)
        assert answer.code == 2
        assert (
            f"{file}: quality: 90 for all rows, and no picture is a JPEG or a WebP; " in answer.err
        )
    assert at_home("jobs", "--json").json["jobs"] == []


def test_a_quality_of_the_job_is_passed_over_where_a_row_is_png(at_home, mill, rows):
    file = rows({"format": "jpeg"}, {"format": "png"}, {}, {"format": "webp", "quality": 7})
    assert at_home("submit", file, "--quality", 90).code == 0
    assert files_of(mill) == [("jpeg", 90), ("png", None), ("png", None), ("webp", 7)]


def test_a_file_of_defaults_has_a_quality_for_its_own_format(at_home, mill, rows, tmp_path):
    defaults = tmp_path / "defaults.toml"
    defaults.write_text('format = "jpeg"\nquality = 90\n')
    assert at_home("plan", rows({"format": "png"}), "--defaults", defaults).code == 0
    options = ("--defaults", defaults, "--image-format", "png")
    assert at_home("submit", rows({}), *options).code == 0
    assert files_of(mill) == [("png", None)]


def test_what_guidance_alone_uses_is_told_of_where_there_is_none(at_home, rows):
    file = rows(
        {"negative_prompt": "blurry", "guidance_scale": 1},
        {"negative_prompt": "blurry", "guidance_scale": 3},
        {"guidance_end": 0.5, "guidance_start": 0, "guidance_scale": 0},
        {"negative_prompt": "", "guidance_scale": 1},
    )
    example = {"file": None, "row_number": 1, "text": '"blurry"'}
    beside = "guidance_scale is 1 or less, which is no guidance"
    expected = [
        {"column": "negative_prompt", "beside": beside, "rows": 1, "examples": [example]},
        {
            "column": "guidance_end",
            "beside": beside,
            "rows": 1,
            "examples": [example | {"row_number": 3, "text": "0.5"}],
        },
    ]
    assert at_home("plan", file, "--json").json["without_effect"] == expected
    assert at_home("submit", file, "--json").json["without_effect"] == expected
    said = f'1 row with a negative_prompt without effect (row 1: "blurry"): {beside}'
    assert said in at_home("plan", file).out.splitlines()


def test_a_grid_over_guidance_begins_at_1(at_home, rows):
    options = ("--grid", "guidance_scale=1,3", "--negative-prompt", "dull", "--json")
    told = at_home("submit", rows({}), *options).json
    assert told["requested"] == 2
    assert [(each["column"], each["rows"]) for each in told["without_effect"]] == [
        ("negative_prompt", 1)
    ]


def test_openais_own_compression_of_a_png_says_nothing():
    asked = {"prompt": "x", "output_compression": 100}
    assert read_generation(asked).row == {"prompt": "x"}
    assert read_generation(asked | {"output_compression": 50}).row["quality"] == 50
    assert read_generation(asked | {"output_format": "webp"}).row["quality"] == 100


def test_a_job_that_is_there_says_what_it_keeps(at_home, mill, rows, caplog):
    file = rows({})
    job = at_home("submit", file, "--json").json["job_id"]
    others = ("--priority", 5, "--weight", 3, "--max-workers", 2, "--needs", "gpu=h100")
    others += ("--deadline", "2h", "--name", "other", "--owner", "bob", "--route", "fast")
    caplog.clear()
    assert at_home("submit", file, *others, "--json").json["route"] == "default"
    (said,) = [each.getMessage() for each in caplog.records if "keeps" in each.getMessage()]
    assert said == (
        f"job {job} (rows) was there already and keeps name rows, route default, owner "
        f"{mill.job(job).owner}, priority 0, weight 1, max-workers without limit, needs nothing, "
        f"deadline none; `imagemill edit {job}` changes deadline, max-workers, needs, priority, "
        "weight"
    )
    caplog.clear()
    for same in ((), ("--name", "rows", "--route", "default", "--weight", 1)):
        assert at_home("submit", file, *same).code == 0
    assert not [each for each in caplog.records if "keeps" in each.getMessage()]


def test_a_duration_that_is_said_again_is_the_same_deadline(at_home, rows, caplog):
    file = rows({})
    for _ in range(2):
        assert at_home("submit", file, "--deadline", "2h", "--priority", 2).code == 0
    assert not [each for each in caplog.records if "keeps" in each.getMessage()]
    at_home("submit", file, "--deadline", "2099-12-24T18:00Z")
    assert "keeps deadline 20" in caplog.text


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--route", "fast", "for workers of the route fast, and the one of `run` is of the route "),
        ("--needs", "gpu=h100", "needs a worker with gpu=h100, and the one of `run` has no labels"),
    ],
)
def test_run_refuses_a_job_for_other_workers(imagemill, rows, tmp_path, option, value, said):
    answer = imagemill("run", rows({}), "--out", tmp_path / "out", option, value)
    assert answer.code == 2
    assert answer.err.startswith(f"error: the job {'is ' * (option == '--route')}{said}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--steps", 5, "--grid", "steps=10,20"), "steps"),
        (("--seeds", "3,4", "--grid", "seed=1,2"), "seeds"),
        (("--width", 64, "--grid", "size=64x64,128x128"), "width"),
        (("--start-step", 5, "--grid", "strength=0.5,0.6"), "start_step"),
    ],
)
def test_a_flag_that_a_grid_replaces_is_refused(at_home, rows, options, name):
    answer = at_home("plan", rows({}), *options)
    assert answer.code == 2
    said = f"error: {name} has no effect beside --grid, which sets it in every cell\n"
    assert answer.err == said


def test_what_a_grid_leaves_is_no_mistake(at_home, rows, tmp_path):
    defaults = tmp_path / "defaults.toml"
    defaults.write_text("steps = 5\n")
    for options in (("--defaults", defaults), ("--samples", 2), ("--width", 128)):
        axis = ("--grid", "steps=10,20", "--grid", "seed=1,2")
        assert at_home("plan", rows({"steps": 7}), *options, *axis).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("images", "--state", "ready", "--outcome", "ok"),
            "--outcome is of done images, and --state ready of others",
        ),
        (
            ("prune", "--older-than", "1d", "--label", "a=b", "--keep-label", "a"),
            "--label a takes only jobs that --keep-label a keeps",
        ),
        (
            ("edit", "latest", "--needs", "none", "--needs", "gpu=h100"),
            "--needs none is for a job that needs nothing; give it alone",
        ),
        (("reproduce", "1", "--sample", 3), "--sample has no effect without --job"),
    ],
)
def test_options_that_leave_each_other_nothing_are_refused(at_home, words, said):
    answer = at_home(*words)
    assert (answer.code, answer.err.splitlines()[-1]) == (2, f"error: {said}")
