"""docs/tutorial.md: its commands are commands, and its manifests and its question work."""

import re
import shlex
import sqlite3
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from imagemill.db.database import Database
from imagemill.db.schema import migrate
from imagemill.scheduler_jobs.cli import cli

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
PRINTED = [
    line.removeprefix("$ ")
    for line in PAGE.splitlines()
    if line.removeprefix("$ ").startswith("printf ")
]
COMMANDS = [
    line for block in BLOCKS for line in block.splitlines() if line.startswith("imagemill ")
]


@pytest.fixture
def manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the page's `printf` lines have written their files."""
    monkeypatch.chdir(tmp_path)
    for line in PRINTED:
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    (tmp_path / "pictures").mkdir()
    return tmp_path


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_takes_what_the_page_gives_it(line: str, manifests: Path):
    words = shlex.split(line)[1:]
    if words[0] == "--home":
        words = words[2:]
    context = click.Context(cli, info_name="imagemill", **cli.context_settings)
    command = cli.get_command(context, words[0])
    assert command is not None
    command.make_context(words[0], words[1:], parent=context)


def test_plan_accepts_the_good_manifests_and_refuses_the_bad_one(manifests: Path):
    for name, code in (("prompts.txt", 0), ("table.csv", 0), ("bad.csv", 2)):
        assert CliRunner().invoke(cli, ["plan", name]).exit_code == code


def test_the_question_is_answered_by_the_view(tmp_path: Path):
    [question] = re.findall(r'^question = "(.+)"$', PAGE, re.M)
    file = tmp_path / "imagemill.sqlite3"
    database = Database(f"sqlite:///{file}")
    migrate(database)
    database.close()
    with sqlite3.connect(file) as connection:
        assert connection.execute(question).fetchall() == []
