"""What `status`, `jobs`, `images`, `show` and `errors` tell about work in a database."""

import re
from dataclasses import replace

import pytest

from imagemill.db.compositions import Composition
from imagemill.db.queries.pictures import environments
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Environment
from imagemill.scheduler_jobs.cli.commands.look import jobs
from tests.helpers.mill import CRASH, REFUSED, spec

EVIL = "a \x1b[31mred\u202e circle\nwith a tail"


@pytest.fixture
def worked(mill):
    """A job of four images: one done, one dead, one leased, one ready."""
    job = mill.load("shapes", [EVIL, "a square", "a star", "a heart"])
    shift = mill.shift()
    done, dead, _ = mill.claim(shift, limit=3)
    mill.begin(shift, [done.id, dead.id])
    mill.complete(shift, [done])
    mill.fail(shift, dead.id, REFUSED)
    return job


def test_status_counts_every_state(at_home, worked):
    job = at_home("status", "--json").json["jobs"][0]
    assert job["counts"] == {"ready": 1, "leased": 1, "done": 1, "dead": 1, "cancelled": 0}
    assert job["requested"] == 4
    assert (job["images_per_second"], job["eta_seconds"]) == (None, None)


def test_status_has_no_remaining_time_before_there_is_data(at_home, mill, worked):
    assert re.search(r"1 +1 +starting", at_home("status").out)
    assert re.search(r"^left +starting$", at_home("status", "latest").out, re.MULTILINE)
    mill.age(10)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    job = at_home("status", "--json").json["jobs"][0]
    assert job["images_per_second"] == pytest.approx(0.1, rel=0.3)
    assert job["eta_seconds"] > 0
    assert "starting" not in at_home("status").out


def test_a_job_with_nothing_left_is_shown_as_finished(at_home, mill):
    job = mill.load("over", ["a circle"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    assert mill.job(job).state == JobState.OPEN, "no dispatcher has looked since"
    assert at_home("status", job, "--json").json["job"]["state"] == "finished"
    assert re.search(r"^state +finished$", at_home("status", job).out, re.MULTILINE)
    assert "no job is live" in at_home("status").out
    for arguments in ([], ["--state", "finished"]):
        assert [j["state"] for j in at_home("jobs", *arguments, "--json").json["jobs"]] == [
            "finished"
        ]
    assert at_home("jobs", "--state", "open", "--json").json["jobs"] == []
    assert at_home("errors", job, "--json").json["state"] == "finished"


def test_status_of_one_job_has_outcomes_groups_errors_and_workers(at_home, worked):
    document = at_home("status", "shapes", "--json").json
    assert document["job"]["job_id"] == worked
    assert document["outcomes"] == {"ok": 1}
    assert [group["counts"]["done"] for group in document["groups"]] == [1]
    assert document["codes"] == [
        {"code": "input_image", "images": 1, "message": "it is no picture"}
    ]
    assert [worker["working"] for worker in document["workers"]] == [True]
    assert document["live_shifts"] == 1


def test_a_row_s_images_are_found_by_its_key(at_home, mill, worked):
    mill.load("later", ["a ring"])
    found = at_home("show", "--key", "2", "--job", "shapes", "--json").json["images"]
    assert [(image["row_number"], image["row_key"]) for image in found] == [(2, "2")]
    text = at_home("show", "--key", "1", "--job", "shapes").out
    assert re.search(r"^image +1$", text, re.MULTILINE)
    assert at_home("show", "--key", "1", "--json").json["images"][0]["job_name"] == "later"
    for arguments, complaint in (
        (["--key", "none"], "no row with the id none"),
        ([], "name an IMAGE"),
        (["1", "--key", "1"], "name an IMAGE"),
    ):
        answer = at_home("show", *arguments)
        assert answer.code == 2
        assert complaint in answer.err


def test_errors_of_one_row(at_home, mill, worked):
    told = at_home("errors", "shapes", "--key", "2", "--json").json
    assert [image["row_number"] for image in told["images"]] == [2]
    assert [code["images"] for code in told["codes"]] == [1]
    none = at_home("errors", "shapes", "--key", "1", "--json").json
    assert (none["images"], none["codes"], none["bad_rows"]) == ([], [], [])
    assert "no dead images of the row 1" in at_home("errors", "shapes", "--key", "1").out


def test_status_for_people(at_home, worked):
    everything = at_home("status").out
    assert "shapes" in everything
    assert "1 worker alive, 1 shift at work" in everything
    one = at_home("status", "latest").out
    assert "1 (25 %)" in one
    assert f"\n`imagemill --home {at_home.home} retry 1` tries again\n" in one


def test_status_of_an_empty_database(at_home):
    answer = at_home("status")
    assert answer.code == 0
    assert "no job is live" in answer.out
    assert "no worker is alive" in answer.out


def test_jobs_are_paged_newest_first(at_home, mill):
    for name in ("one", "two", "three"):
        mill.load(name, ["a circle"])
    first = at_home("jobs", "--limit", 2, "--json").json
    assert [job["job_name"] for job in first["jobs"]] == ["three", "two"]
    second = at_home("jobs", "--limit", 2, "--before", first["next"], "--json").json
    assert [job["job_name"] for job in second["jobs"]] == ["one"]
    assert second["next"] is None


def test_jobs_by_state(at_home, mill):
    mill.load("one", ["a circle"])
    mill.pause(mill.load("two", ["a square"]))
    paused = at_home("jobs", "--state", "paused", "--json").json["jobs"]
    assert [job["job_name"] for job in paused] == ["two"]


def test_images_are_paged_by_id(at_home, mill):
    mill.load("many", [f"prompt {n}" for n in range(5)], samples=2)
    seen, after = [], 0
    while after is not None:
        page = at_home("images", "many", "--limit", 4, "--after", after, "--json").json
        seen += [(image["row_number"], image["sample_index"]) for image in page["images"]]
        after = page["next"]
    assert seen == [(row, sample) for row in range(1, 6) for sample in range(2)]


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        (["--state", "done"], [1]),
        (["--state", "ready"], [4]),
        (["--outcome", "ok"], [1]),
        (["--code", "input_image"], [2]),
        (["--row", "3"], [3]),
        (["--key", "3"], [3]),
        (["--key", "none"], []),
        (["--sampler", "DDIM"], [1, 2, 3, 4]),
        (["--sampler", "euler"], []),
        (["--guidance-scale", "5"], [1, 2, 3, 4]),
        (["--guidance", "7.5"], []),
        (["--seed", "1"], [1, 2, 3, 4]),
        (["--seed", "2"], []),
        (["--model", "model-aaaa"], [1, 2, 3, 4]),
        (["--model", "another"], []),
        (["--state", "done", "--row", "2"], []),
    ],
)
def test_images_are_filtered(at_home, worked, filters, rows):
    found = at_home("images", "latest", *filters, "--json").json["images"]
    assert [image["row_number"] for image in found] == rows


def test_images_are_filtered_by_a_condition_in_any_state(at_home, mill):
    job = mill.load("many", [spec(f"p{n}", seed=n) for n in range(9)])
    mill.complete(shift := mill.shift(), mill.claim(shift, limit=2))

    def seeds(*words):
        page = at_home("images", job, *words, "--json").json
        return [image["seed"] for image in page["images"]], page["next"]

    assert seeds("--where", "seed >= 5") == ([5, 6, 7, 8], None)
    assert seeds("--where", "seed >= 5", "--limit", 2) == ([5, 6], 7)
    assert seeds("--where", "seed >= 5", "--limit", 2, "--after", 7) == ([7, 8], None)
    assert seeds("--where", "seed < 3", "--state", "ready") == ([2], None)
    assert at_home("images", job, "--where", "seed > 99").out == "no images\n"
    wrong = at_home("images", job, "--where", "sede = 1")
    assert (wrong.code, wrong.out) == (2, "")
    assert "--where: nothing is called 'sede'; did you mean seed? there are" in wrong.err


def test_a_table_of_images_says_what_differs(at_home, mill):
    plain = spec("a circle")
    mill.load("grid", [replace(plain, sampler="euler", guidance_scale=7.5, steps=9), plain])
    head, first, second = at_home("images", "grid").out.splitlines()
    words = ["IMAGE", "ROW", "KEY", "STATE", "SAMPLER", "STEPS", "GUIDANCE", "SEED", "PROMPT"]
    assert head.split() == words
    assert first.split() == ["1", "1", "1", "ready", "euler", "9", "7.5", "1", "a", "circle"]
    assert second.split() == ["2", "2", "2", "ready", "ddim", "20", "5", "1", "a", "circle"]
    mill.load("alike", [plain, replace(plain, prompt="a square")], samples=2)
    assert at_home("images", "alike", "--row", 1).out.splitlines()[0].split() == [
        *("IMAGE", "ROW", "KEY", "SAMPLE", "STATE", "SEED", "PROMPT")
    ]
    shown = at_home("show", 2).out
    assert re.search(r"^key +2$", shown, re.MULTILINE)
    assert at_home("images", "--sampler", "no such").code == 2


def test_prompts_are_harmless_on_a_screen_and_exact_in_json(at_home, worked):
    for answer in (at_home("images"), at_home("show", 1), at_home("errors", "latest")):
        assert "\x1b" not in answer.out
        assert "\u202e" not in answer.out
    assert "a [31mred circle with a tail" in at_home("images").out
    assert at_home("images", "--json").json["images"][0]["prompt"] == EVIL
    assert at_home("show", 1, "--json").json["image"]["specification"]["prompt"] == EVIL
    assert "\x1b" not in at_home("show", 1, "--json").out


def test_show_has_the_file_and_the_history(at_home, worked):
    image = at_home("show", 1, "--json").json["image"]
    assert image["state"] == "done"
    assert image["file"]["object_key"].endswith(".png")
    assert image["file"]["environment"]
    assert [event["event"] for event in image["history"]] == ["done"]
    assert image["history"][0]["worker"] == "w@host"
    text = at_home("show", 1).out
    assert image["file"]["uri"] in text
    assert image["file"]["pixels_sha256"] in text


def test_show_says_who_shared_the_recorded_batch(at_home, mill, worked):
    assert at_home("show", 1, "--json").json["image"]["file"]["composition"] is None
    assert "recorded batch" not in at_home("show", 1).out
    mill.load("recorded", ["two", "beside"])
    shift = mill.shift()
    held = mill.claim(shift, limit=2)
    together = Composition.of([(image.id, image.spec) for image in held], slots=4)
    mill.complete(shift, held, composition=together)
    one, other = (image.id for image in held)
    assert at_home("show", one, "--json").json["image"]["file"]["composition"] == {
        "slots": 4,
        "request_keys": [image.request_key for image in held],
        "image_ids": [one, other],
    }
    assert f"of images {one}, {other}, in this order, in 4 slots" in at_home("show", other).out


@pytest.mark.parametrize(
    ("certificate", "line"),
    [
        ({"holds": True, "promise": "independence"}, "independent of the batch"),
        ({"holds": True, "promise": "composition"}, "depends on its recorded batch alone"),
    ],
)
def test_show_says_what_was_certified(at_home, mill, worked, certificate, line):
    mill.database.run(
        lambda session: environments.record_certificate(session, mill.environment_id, certificate)
    )
    [found] = [each for each in at_home("show", 1).out.splitlines() if line in each]
    assert found.endswith("yes, certified")


def test_show_says_that_no_bits_were_promised(at_home, mill, worked):
    def free(session):
        environment = session.get_one(Environment, mill.environment_id)
        environment.document = dict(environment.document) | {"reproducible": False}

    mill.database.run(free)
    shown = at_home("show", 1).out
    assert "not promised: rendered with reproducible = false" in shown
    assert "independent of the batch" not in shown


def test_show_follows_an_image_through_its_generations(at_home, mill, worked):
    mill.retry(worked)
    image = at_home("show", 2, "--json").json["image"]
    assert (image["state"], image["generation"]) == (ImageState.READY, 2)
    assert [event["event"] for event in image["history"]] == ["dead", "retried"]
    assert image["file"] is None
    assert "it is no picture" in at_home("show", 2).out


def test_errors_are_counted_by_code_and_listed(at_home, mill, worked):
    document = at_home("errors", "latest", "--json").json
    assert document["codes"] == [
        {"code": "input_image", "images": 1, "message": "it is no picture"}
    ]
    assert [image["row_number"] for image in document["images"]] == [2]
    assert document["images"][0]["error_message"] == "it is no picture"
    text = at_home("errors", "latest").out
    assert "input_image" in text
    assert "it is no picture" in text


def test_errors_are_paged(at_home, mill):
    job = mill.load("bad", ["one", "two", "three"])
    shift = mill.shift()
    for image in mill.claim(shift):
        mill.begin(shift, [image.id])
        mill.fail(shift, image.id, REFUSED)
    first = at_home("errors", job, "--limit", 2, "--json").json
    assert [image["row_number"] for image in first["images"]] == [1, 2]
    rest = at_home("errors", job, "--limit", 2, "--after", first["next_image"], "--json").json
    assert [image["row_number"] for image in rest["images"]] == [3]
    assert rest["next_image"] is None


def test_errors_of_a_job_without_any(at_home, mill):
    mill.load("good", ["a circle"])
    answer = at_home("errors", "good")
    assert answer.code == 0
    assert "no dead images and no bad rows" in answer.out


def test_an_image_that_failed_and_waits_says_why(at_home, mill):
    mill.load("tried", ["a circle"])
    shift = mill.shift()
    (image,) = mill.claim(shift)
    mill.begin(shift, [image.id])
    mill.fail(shift, image.id, CRASH)
    detail = at_home("show", image.id, "--json").json["image"]
    assert (detail["state"], detail["error_code"]) == (ImageState.READY, "render")


def test_status_shows_those_in_work_first_and_says_how_many_more_there_are(at_home, mill):
    first = mill.load("oldest", ["a", "b"])
    mill.claim(mill.shift(), limit=1)
    for n in range(jobs.SHOWN_JOBS + 4):
        mill.load(f"job {n}", ["a"])
    lines = at_home("status").out.splitlines()
    assert lines[1].split()[:2] == [str(first), "oldest"]
    assert lines[jobs.SHOWN_JOBS + 1].startswith("… and 5 more live jobs")
    assert len(at_home("status", "--json").json["jobs"]) == jobs.SHOWN_JOBS + 5


def test_status_says_which_route_nobody_works_on(at_home, mill):
    """Without it, a job with a mistyped route waits without a word."""
    mill.load("near", ["a"])
    job = mill.load("far", ["a"], route="80gb")
    told = (
        f"no worker takes the route 80gb: 1 job waits; `imagemill --home {at_home.home} worker "
        "--route 80gb` starts one"
    )
    for arguments in ([], [str(job)]):
        out = at_home("status", *arguments).out
        assert out.splitlines()[-1] == told
        assert "route default" not in out
