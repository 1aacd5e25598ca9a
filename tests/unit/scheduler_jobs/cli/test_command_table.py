"""The commands as a whole: found, described, documented, quick to list."""

import re
import subprocess
import sys

import click
import pytest

from imagemill.scheduler_jobs.cli import cli
from imagemill.scheduler_jobs.cli.command_table import COMMANDS as TABLE
from imagemill.scheduler_jobs.cli.command_table import CommandEntry
from imagemill.scheduler_jobs.cli.commands.render.submit_options import PARAMETER_FLAGS
from imagemill.scheduler_jobs.manifest import Parameters
from tests.helpers.places import ROOT

DOCS = ROOT / "docs" / "cli.md"
# A command keeps the names of its help option from its first context: they are `cli`'s.
CONTEXT = click.Context(cli, info_name="imagemill", **cli.context_settings)


def commands() -> dict[str, click.Command]:
    """Every command by its full name, subcommands included."""
    found: dict[str, click.Command] = {}
    for name in cli.list_commands(CONTEXT):
        command = cli.get_command(CONTEXT, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            for below in command.list_commands(CONTEXT):
                inner = command.get_command(CONTEXT, below)
                assert inner is not None
                found[f"{name} {below}"] = inner
    return found


COMMANDS = commands()


def sections_of_the_docs() -> dict[str, str]:
    parts = re.split(r"^### `imagemill ([a-z -]+)`$", DOCS.read_text("utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(name):
    command = COMMANDS[name]
    assert command.help
    assert f"imagemill {name}" in command.help
    assert any("--json" in param.opts for param in command.params)
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"--{param.name} says nothing"
            told = param.is_flag or isinstance(param.type, click.Choice) or param.metavar
            assert told, f"--{param.name} does not say what its value is"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_in_80_columns(name):
    """click cuts the lines of a group's commands, and wraps an example that is no block."""
    context = click.Context(
        COMMANDS[name],
        info_name=name.rpartition(" ")[2],
        parent=CONTEXT,
        terminal_width=80,
        max_content_width=80,
    )
    lines = COMMANDS[name].get_help(context).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line for line in lines[1:] if line.endswith("...")] == []
    assert not any(re.search(r"Examples?: \S", line) for line in lines)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, "at every look|for each|JSON lines") for name in ("watch", "diff", "reproduce")),
        *((name, "go on") for name in ("gallery", "serve", "flower")),
    ],
)
def test_help_says_where_json_is_not_one_object_at_the_end(name, said):
    [option] = [param for param in COMMANDS[name].params if "--json" in param.opts]
    assert re.search(said, option.help)
    assert "as the last line" not in option.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name):
    text = DOCS.read_text("utf-8")
    section = sections_of_the_docs().get(name)
    assert section is not None, f"docs/cli.md has no section `imagemill {name}`"
    if name in {"run", "plan", "submit"}:
        section = text  # what they share has a section of its own
    for param in COMMANDS[name].params:
        if isinstance(param, click.Option) and "--json" not in param.opts:
            assert any(f"`{opt}" in section for opt in param.opts), f"{param.opts} is not described"


def test_the_docs_describe_no_command_that_is_not_there():
    assert set(sections_of_the_docs()) <= set(COMMANDS)


@pytest.mark.parametrize("name", TABLE)
def test_the_list_of_commands_says_what_the_command_says(name):
    assert set(TABLE) == set(COMMANDS)
    assert (COMMANDS[name].help or "").partition("\n")[0] == TABLE[name].help
    assert COMMANDS[name].name == name.rpartition(" ")[2]


def test_every_parameter_of_an_image_has_a_flag():
    fields = set(Parameters.model_fields) - {"seed"}
    assert fields <= set(PARAMETER_FLAGS)


def test_listing_the_commands_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from imagemill.scheduler_jobs.cli import cli\n"
        "try:\n    cli.main(['--help'], 'imagemill')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'sqlalchemy', 'celery', 'pyarrow', 'pydantic', 'torch', 'boto3', 'PIL', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(f"  {name} " in done.stdout for name in cli.list_commands(CONTEXT))


def test_a_command_whose_package_is_missing_says_so_in_one_line(imagemill, monkeypatch):
    absent = CommandEntry(target="no_such_package.cli:paint", section="Render", help="Paint.")
    broken = CommandEntry(target="json:no_such_attribute", section="Render", help="Carve.")
    monkeypatch.setattr(cli, "table", {"paint": absent, "carve": broken})
    assert re.search(r"paint +Not available in this installation", imagemill("--help").out)
    for name in ("paint", "carve"):
        answer = imagemill(name, "--anything", "x")
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert "pip install imagemill" in answer.err


def test_a_mistyped_command_gets_a_suggestion(imagemill):
    answer = imagemill("statsu")
    assert answer.code == 2
    assert "did you mean status?" in answer.err


def test_no_command_shows_the_help(imagemill):
    answer = imagemill()
    assert answer.code == 2
    assert "Render a manifest of prompts" in answer.err + answer.out


@pytest.mark.parametrize("spelling", ["--home {}", "--home={}"])
def test_the_options_of_all_commands_may_follow_the_command(imagemill, home, spelling):
    after = spelling.format(home).split(" ")
    told = imagemill("jobs", "--json", *after, "--verbose")
    assert (told.code, told.json["jobs"]) == (0, [])
    assert imagemill("jobs", "--config", "no-such-file").code == 2
    assert imagemill("jobs", "--home").code == 2
    # What follows `--` is the command's own.
    assert "--home" in imagemill("show", "--", "--home").err


def test_a_command_imports_only_what_everybody_needs_who_calls_it() -> None:
    """Each of these takes 0.1 to 0.3 s to import, of every call."""
    unused = {"alembic", "psycopg", "boto3", "botocore"}
    # In this order no module is blamed for what one before it may import.
    cases = {
        "look.jobs": {*unused, "celery", "pyarrow", "numpy", "PIL"},
        "take_away.exports": {*unused, "celery"},
        "render.manifests": unused,
    }
    code = (
        f"import importlib, sys\nfor module, unused in {cases}.items():\n"
        "    importlib.import_module(f'imagemill.scheduler_jobs.cli.commands.{module}')\n"
        "    print(module, sorted(unused & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{module} []" for module in cases]
