"""What is said of a manifest that can't be read, or of which no row can be rendered."""

import pytest

pytestmark = pytest.mark.usefixtures("no_broker")


@pytest.mark.parametrize("options", [(), ("--skip-bad-rows",)])
def test_a_file_that_cannot_be_read_is_no_bad_row(at_home, tmp_path, options):
    file = tmp_path / "unicode.csv"
    file.write_bytes("prompt\na red circle\n".encode("utf-16"))
    planned = at_home("plan", file, *options)
    assert planned.code == 2
    assert planned.err.endswith(
        "error: the manifest can't be used as it is; submitting queues nothing\n"
    )
    assert "bad row" not in planned.out + planned.err
    assert at_home("plan", file, *options, "--json").json["readable"] is False
    refused = at_home("submit", file, *options)
    assert (refused.code, refused.err.splitlines()[-1]) == (
        2,
        f"error: {file}: it can't be used as it is",
    )


def test_plan_refuses_what_submit_refuses_where_every_row_is_bad(at_home, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text("prompt,steps\na red circle,many\n")
    planned = at_home("plan", file, "--skip-bad-rows")
    assert (planned.code, at_home("submit", file, "--skip-bad-rows").code) == (2, 2)
    assert "error: 1 bad row and no other" in planned.err


def test_a_model_that_is_not_there_is_one_line_for_all_rows(at_home, manifest, tmp_path):
    for command in ("plan", "submit"):
        refused = at_home(command, manifest, "--model", "sdxl")
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == "error: no model is called 'sdxl'; registered: shapes64\n"
    file = tmp_path / "models.csv"
    file.write_text("prompt,model\na red circle,sdxl\n")
    said = at_home("plan", file).err.splitlines()[0]
    assert said.endswith("model: 'sdxl'; one of shapes64; `imagemill models add` registers more")


def test_a_wrong_flag_is_said_once(at_home, manifest):
    refused = at_home("plan", manifest, "--steps", "7,5")
    assert refused.err == 'error: command line: steps: "7,5"; a whole number from 1 to 1000\n'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", ""), "an empty text"),
        (("run", "prompts.csv", "--out", ""), "'--out': an empty path"),
        (("--home", "", "jobs"), "'--home': an empty path"),
        (("export", "1", "--format", "flat", "--to", ""), "'--to': an empty text"),
        (("report", "1", "-o", ""), "an empty path"),
        (("plan", "https://example.com/prompts.csv"), "an address, and no file; fetch it first"),
        (
            ("plan", "--prompt", "a", "--init-image", "https://example.com/a.png"),
            "--init-image 'https://example.com/a.png': not a file",
        ),
    ],
)
def test_an_empty_path_is_not_the_current_folder_and_an_address_no_file(imagemill, arguments, said):
    refused = imagemill(*arguments)
    assert refused.code == 2
    assert said in refused.err
