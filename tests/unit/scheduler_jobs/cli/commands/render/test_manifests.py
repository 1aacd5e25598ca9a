"""`plan` and `submit`: from flags to a request, from results to words."""

import pytest

from imagemill.db.models.registry import load_registry
from imagemill.db.queries.work import shifts
from imagemill.db.settings import Settings
from tests.helpers.places import DATA

pytestmark = pytest.mark.usefixtures("no_broker")

BAD = "prompt,steps\n,10\na blue star,many\na ring,20\n"


@pytest.fixture
def bad_manifest(tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text(BAD)
    return file


def test_plan_counts_and_changes_nothing(at_home, mill, manifest):
    planned = at_home("plan", manifest, "--samples", 3, "--json").json
    assert (planned["rows"], planned["requested"], planned["bad_rows"]) == (2, 6, 0)
    assert planned["reused"] == 0
    assert planned["groups"] == [
        {"model": "shapes64", "width": 64, "height": 64, "guided": True, "images": 6}
    ]
    assert at_home("jobs", "--json").json["jobs"] == []


def test_plan_needs_no_database(imagemill, tmp_path, manifest):
    answer = imagemill("--home", tmp_path / "nowhere", "plan", manifest, "--json")
    assert answer.code == 0
    assert answer.json["reused"] is None
    assert not (tmp_path / "nowhere").exists()


def test_plan_says_what_of_a_long_prompt_is_cut(at_home, tmp_path):
    file = tmp_path / "long.csv"
    file.write_text("prompt\n" + "a red circle and " * 40 + "the end\n")
    assert "the end" in at_home("plan", file, "--json").json["long_prompt_rows"][0]["text"]
    assert "with a prompt longer than the model reads" in at_home("plan", file).out


def test_submit_records_the_job_with_its_defaults(at_home, mill, manifest):
    told = at_home(
        *("submit", manifest, "--name", "my shapes", "--seed", 7, "--priority", -3),
        *("--owner", "anna", "--weight", 2, "--max-workers", 4, "--needs", "gpu=h100"),
        *("--deadline", "12h"),
        *("--steps", 12, "--guidance-scale", 2.5, "--negative-prompt", "text", "--json"),
    ).json
    assert told["created"]
    assert (told["requested"], told["ready"]) == (2, 2)
    job = mill.job(told["job_id"])
    assert (job.name, job.seed, job.priority, job.route) == ("my shapes", 7, -3, "default")
    assert (job.owner, job.weight, job.max_workers) == ("anna", 2, 4)
    assert job.needs == '{"gpu": "h100"}'
    assert job.deadline_at is not None
    assert [image.steps for image in mill.images(job.id)] == [12, 30]
    assert {image.guidance_scale for image in mill.images(job.id)} == {2.5}
    assert {image.negative_prompt for image in mill.images(job.id)} == {"text"}


def test_submitting_again_adds_nothing(at_home, mill, manifest):
    job = at_home("submit", manifest, "--json").json["job_id"]
    again = at_home("submit", manifest)
    assert f"nothing added: job {job} (shapes) already has these 2 images" in again.out
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    done = at_home("submit", manifest)
    assert f"nothing to do: job {job} (shapes) already has these 2 images" in done.out
    assert len(at_home("jobs", "--json").json["jobs"]) == 1


def test_a_row_goes_before_a_flag_and_a_flag_before_the_defaults_file(
    at_home, mill, manifest, tmp_path
):
    defaults = tmp_path / "defaults.toml"
    defaults.write_text('steps = 11\nsampler = "euler_a"\nwidth = 128\n')
    told = at_home("submit", manifest, "--defaults", defaults, "--steps", 12, "--json").json
    images = mill.images(told["job_id"])
    assert [image.steps for image in images] == [12, 30]
    assert {(image.sampler, image.width) for image in images} == {("euler_a", 128)}


def test_columns_are_mapped(at_home, mill, manifest):
    told = at_home("submit", manifest, "--map", "Mood=prompt", "--map", "prompt=extra", "--json")
    assert [image.prompt for image in mill.images(told.json["job_id"])] == ["calm", "wild"]


def test_a_manifest_may_come_from_standard_input(at_home, mill):
    lines = b'{"prompt": "a red circle"}\n'
    told = at_home("submit", "-", "--format", "jsonl", "--name", "piped", "--json", input=lines)
    assert [image.prompt for image in mill.images(told.json["job_id"])] == ["a red circle"]


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_bad_rows_are_told_in_lines_and_queue_nothing(at_home, bad_manifest, command):
    answer = at_home(command, bad_manifest)
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert lines[0].startswith(f"{bad_manifest}:1: prompt: ")
    assert lines[1].startswith(f'{bad_manifest}:2: steps: "many"; a whole number')
    assert lines[-1].startswith("error: ")
    document = at_home(command, bad_manifest, "--json").json
    problems = document["problems"] if command == "plan" else document["error"]["problems"]
    assert [(problem["row_number"], problem["column"]) for problem in problems] == [
        (1, "prompt"),
        (2, "steps"),
    ]
    assert at_home("jobs", "--json").json["jobs"] == []


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_twenty_bad_rows_are_shown_and_all_are_in_json(at_home, tmp_path, command):
    file = tmp_path / "bad.csv"
    file.write_text("prompt,steps\n" + "a star,-1\n" * 30)
    lines = at_home(command, file).err.splitlines()
    assert sum(": steps: " in line for line in lines) == 20
    assert "… and 10 more (--json lists all)" in lines
    document = at_home(command, file, "--json").json
    problems = document["problems"] if command == "plan" else document["error"]["problems"]
    assert len(problems) == 30


def test_bad_rows_may_be_skipped(at_home, bad_manifest):
    answer = at_home("submit", bad_manifest, "--skip-bad-rows")
    assert answer.code == 0
    assert "2 bad rows skipped" in answer.out
    rows = at_home("errors", "latest", "--json").json["bad_rows"]
    assert [row["row_number"] for row in rows] == [1, 2]
    assert "many" in at_home("errors", "latest").out
    assert (
        at_home("errors", "latest", "--limit", 1, "--after-row", 1, "--json").json["next_row"]
        is None
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--steps", "0"], "steps"),
        (["--sampler", "oiler"], "did you mean euler"),
        (["--width", "63"], "width"),
        (["--seed", "-1"], "--seed"),
        (["--map", "prompt"], "COLUMN=FIELD"),
        (["--map", "Mood=colour"], "names no field"),
        (["--samples", "2", "--seeds", "1,2,3"], "seeds"),
        (["--defaults", "none.toml"], "none.toml"),
        (["--format", "exe"], "exe"),
        (["--model", "nonesuch"], "nonesuch"),
    ],
)
def test_bad_flags_are_named(at_home, manifest, flags, complaint):
    answer = at_home("submit", manifest, *flags)
    assert answer.code == 2
    assert complaint in answer.err
    assert at_home("jobs", "--json").json["jobs"] == []


def test_submit_says_where_no_live_worker_is_there(at_home, mill, manifest):
    told = "no live worker takes the route 80gb"
    assert told in at_home("submit", manifest, "--route", "80gb").err
    assert told in at_home("submit", manifest, "--route", "80gb").err, "it still waits"
    assert told in at_home("submit", manifest).err, "it is the same job, which keeps its route"
    answer = at_home("submit", manifest, "--seed", 1)
    assert answer.err == "", "the mill's worker takes this route"
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    answer = at_home("submit", manifest, "--name", "again", "--seed", 2, "--json")
    assert answer.err.count("\n") == 1
    assert "no live worker takes the route default" in answer.err
    assert answer.json["ready"] == 2


def test_prompts_need_no_manifest(at_home, mill, tmp_path):
    words = 'a red circle, "quoted"; it\'s\tone row\nand no other'
    told = at_home("submit", "--prompt", words, "--prompt", "a ring", "--samples", 2, "--json").json
    assert (told["job_name"], told["rows"], told["requested"]) == ("prompts", 2, 4)
    found = at_home("images", "latest", "--json").json["images"]
    assert [image["prompt"] for image in found[::2]] == [words, "a ring"]
    again = at_home("submit", "--prompt", words, "--prompt", "a ring", "--samples", 2, "--json")
    assert again.json["nothing_to_do"] is False
    assert again.json["created"] is False, "the same prompts are the same job"
    planned = at_home("plan", "--prompt", "{a|b} ring", "--variants", "all", "--json").json
    assert planned["requested"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing argument 'MANIFEST' (or --prompt TEXT)"),
        (["m.csv", "--prompt", "a"], "not both"),
        (["--prompt", "a", "--format", "csv"], "--format has no effect"),
        (["--prompt", "a", "--map", "x=prompt"], "--map has no effect"),
        (["--prompt", ""], "prompt"),
    ],
)
def test_prompts_and_a_manifest_exclude_each_other(at_home, arguments, complaint):
    for command in ("plan", "submit"):
        answer = at_home(command, *arguments)
        assert answer.code == 2
        assert complaint in answer.err
    assert at_home("jobs", "--json").json["jobs"] == []


def test_plan_shows_what_every_column_became(at_home, tmp_path):
    file = tmp_path / "columns.jsonl"
    file.write_text(
        '{"Prompt": "a red circle", "n_iter": 2, "note": null, "size": "64x64"}\n'
        '{"Prompt": "b", "n_iter": 1, "note": {"by": "me"}, "tiling": false}\n'
    )
    planned = at_home("plan", file)
    assert planned.code == 0
    table = planned.out.partition("\n\n")[2].partition("\n\n")[0]
    assert [line.split(maxsplit=2) for line in table.splitlines()] == [
        ["COLUMN", "BECOMES", "EXAMPLE"],
        ["Prompt", "prompt", "a red circle"],
        ["n_iter", "samples", "2"],
        ["note", "extra", '{"by": "me"}'],
        ["size", "width,", "height  64x64"],
        ["tiling", "extra", "false"],
    ]


def test_plan_shows_refused_columns_with_an_example(at_home, tmp_path):
    file = tmp_path / "refused.csv"
    file.write_text("prompt,sd_seed\na red circle,7\n")
    planned = at_home("plan", file)
    assert planned.code == 2
    assert "sd_seed  refused (like seed)  7" in planned.out.splitlines()
    assert at_home("plan", file, "--json").json["columns"] == [
        {"column": "prompt", "role": "field", "field": "prompt", "example": "a red circle"},
        {"column": "sd_seed", "role": "refused", "field": "seed", "example": "7"},
    ]
    file.write_text("prompt,restore_faces\na red circle,true\n")
    planned = at_home("plan", file)
    assert "restore_faces  refused (not a setting here)  true" in planned.out.splitlines()


def test_submit_names_the_extras_in_one_line(at_home, manifest, tmp_path):
    assert "kept as 1 extra, without effect: Mood" in at_home("submit", manifest).out.splitlines()
    assert "kept as" not in at_home("submit", manifest).out, "nothing was read"
    many = tmp_path / "many.csv"
    many.write_text("prompt," + ",".join(f"c{n}" for n in range(14)) + "\na" + ",x" * 14 + "\n")
    named = ", ".join(f"c{n}" for n in range(12))
    line = f"kept as 14 extras, without effect: {named} and 2 more"
    assert line in at_home("submit", many).out.splitlines()
    plain = tmp_path / "plain.txt"
    plain.write_text("a red circle\n")
    assert "COLUMN" not in at_home("plan", plain).out
    answer = at_home("submit", plain, "--json")
    assert [each["column"] for each in answer.json["columns"]] == ["prompt"]


def test_a_strength_of_one_without_a_picture_asks_for_nothing(at_home, mill, tmp_path):
    """ComfyUI writes `denoise` 1 for every picture; the request is the one without it."""
    file = tmp_path / "comfy.csv"
    file.write_text("positive,denoise,seed\na red circle,1.0,7\na red circle,,7\n")
    job = at_home("submit", file, "--json").json["job_id"]
    assert len({image.request_key for image in mill.images(job)}) == 1
    file.write_text("positive,denoise\na red circle,0.9\n")
    assert "strength: no init_image" in at_home("plan", file).err


def example(row, text, file=None):
    return {"file": file, "row_number": row, "text": text}


MIDJOURNEY = DATA / "cases" / "midjourney.csv"


def test_another_tool_s_syntax_is_counted_and_shown(at_home, tmp_path):
    assert (
        "1 row with another tool's flags, which the model reads as words (row 1: --ar 16:9); "
        "--strict refuses them"
    ) in at_home("plan", MIDJOURNEY).out.splitlines()
    file = tmp_path / "many.csv"
    file.write_text(
        "prompt,negative_prompt\n" + '"a {b|c} (d:1.3)",blurry\n' * 7 + "a,<lora:x:1>\n"
    )
    found = [
        {"kind": "networks", "rows": 1, "examples": [example(8, "<lora:x:1>")]},
        {"kind": "weights", "rows": 7, "examples": [example(n, "(d:1.3)") for n in range(1, 6)]},
        {"kind": "templates", "rows": 7, "examples": [example(n, "{b|c}") for n in range(1, 6)]},
    ]
    out = at_home("plan", file).out
    assert "(row 8: <lora:x:1>); --strict refuses them" in out
    assert "…); --prompt-weighting true reads them, --strict refuses them" in out
    assert "…); --variants all reads them, --strict refuses them" in out
    assert at_home("plan", file, "--json").json["foreign_syntax"] == found
    assert at_home("submit", file, "--json").json["foreign_syntax"] == found
    read = at_home("plan", file, "--prompt-weighting", "true", "--variants", "all", "--json").json
    assert [each["kind"] for each in read["foreign_syntax"]] == ["networks"]


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_strict_refuses_rows_with_another_tool_s_syntax(at_home, command):
    answer = at_home(command, MIDJOURNEY, "--strict")
    assert answer.code == 2
    assert answer.err.splitlines()[0] == (
        f'{MIDJOURNEY}:1: prompt: "--ar 16:9", another tool\'s flags; '
        "a column of its own for each option, such as width; else words alone"
    )


def test_strict_rows_are_skipped_like_other_bad_rows(at_home, tmp_path):
    file = tmp_path / "two.csv"
    file.write_text("prompt\na red circle --ar 16:9\na red circle (16:9)\n")
    told = at_home("submit", file, "--strict", "--skip-bad-rows", "--json").json
    assert (told["requested"], told["bad_rows"]) == (1, 1)
    again = at_home("submit", file, "--skip-bad-rows", "--json").json
    assert again["requested"] == 2, "another submission"


@pytest.fixture
def two_files(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,id\na cat,1\na dog,2\n")
    (tmp_path / "b.csv").write_text("prompt,id\na fox,3\na hen,1\n")
    return tmp_path


def test_several_manifests_are_one_job(at_home, mill, two_files):
    a, b = two_files / "a.csv", two_files / "b.csv"
    answer = at_home("plan", a, b)
    assert answer.code == 2
    assert answer.err.splitlines()[0].startswith(f"{b}:2: id: '1', which an earlier row has")
    assert at_home("plan", f"{two_files}/*.csv", "--skip-bad-rows", "--json").json["rows"] == 3
    told = at_home("submit", f"{two_files}/*.csv", "--skip-bad-rows", "--json").json
    assert (told["rows"], told["bad_rows"], told["job_name"]) == (4, 1, "a")
    assert [image.prompt for image in mill.images(told["job_id"])] == ["a cat", "a dog", "a fox"]
    job = at_home("status", told["job_id"], "--json").json
    assert job["job"]["manifest"] == f"{two_files}/*.csv"
    (bad,) = at_home("errors", told["job_id"], "--json").json["bad_rows"]
    assert bad["row_number"] == 4
    again = at_home("submit", f"{two_files}/*.csv", "--skip-bad-rows", "--json").json
    assert (again["created"], again["job_id"]) == (False, told["job_id"])


def test_examples_of_several_manifests_name_the_file_and_its_row(at_home, tmp_path):
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    a.write_text("prompt\na cat\na dog\n")
    b.write_text(f"prompt\na fox\na hen --ar 16:9 {'and a cock ' * 40}the end\n")
    told = at_home("plan", a, b, "--json").json
    assert told["foreign_syntax"][0]["examples"] == [example(2, "--ar 16:9", file=str(b))]
    assert [(each["file"], each["row_number"]) for each in told["long_prompt_rows"]] == [
        (str(b), 2)
    ]
    lines = at_home("plan", a, b).out.splitlines()
    assert any(line.startswith(f"  {b}:2: …") for line in lines)
    assert any(f"({b}:2: --ar 16:9)" in line for line in lines)
    assert f"({b}:2: --ar 16:9)" in at_home("submit", a, b).out


def test_damage_to_one_of_several_files_queues_nothing(at_home, two_files):
    (two_files / "c.csv").write_text("title\na cat\n")
    answer = at_home("submit", f"{two_files}/*.csv", "--skip-bad-rows")
    assert answer.code == 2
    assert f"{two_files}/c.csv: line 1: header: no prompt among" in answer.err


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("steps = true", "defaults.steps: true; a whole number"),
        ("width = 65", "defaults.width: 65; a multiple of 8"),
        ("guidance_scale = nan", "defaults.guidance_scale: NaN; a number"),
    ],
)
def test_a_default_of_a_model_that_is_no_value_is_one_line(
    imagemill, monkeypatch, tmp_path, value, found
):
    folder = load_registry(Settings.load()).find("shapes64").source
    file = tmp_path / "models.toml"
    file.write_text(f'[models.mine]\nsource = "{folder}"\ndefaults = {{ {value} }}\n')
    monkeypatch.setenv("IMAGEMILL_MODELS", str(file))
    answer = imagemill("plan", "--prompt", "a red circle", "--model", "mine")
    assert answer.code == 2
    assert f"model mine: {found}" in answer.out + answer.err
