"""Fixtures for the command line: a folder as `imagemill run` leaves one, and a way to call it."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imagemill.db.database import Database
from imagemill.db.given_settings import DATABASE_FILE
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli import cli
from tests.helpers.mill import Mill
from tests.helpers.template import copy_of_template


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of standard output."""
        document = json.loads(self.out.splitlines()[-1])
        assert isinstance(document, dict)
        return document


class CommandLine:
    """Calls `imagemill` in this process, with its own environment each time."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = home

    def __call__(self, *arguments: object, input: bytes | None = None) -> Answer:
        before = dict(os.environ)
        where = [] if self.home is None else ["--home", str(self.home)]
        words = [*where, *map(str, arguments)]
        try:
            result = CliRunner().invoke(cli, words, input=input, prog_name="imagemill")
        finally:
            _restore(before)
        assert "Traceback" not in result.output
        return Answer(code=result.exit_code, out=result.stdout, err=result.stderr)


def _restore(before: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def imagemill() -> CommandLine:
    """The command with nothing but the defaults of its settings."""
    return CommandLine()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with an empty database of this version, to be addressed by `--home`."""
    folder = tmp_path / "home"
    folder.mkdir()
    copy_of_template(folder / DATABASE_FILE)
    return folder


@pytest.fixture
def at_home(home: Path) -> CommandLine:
    """The command with `--home`."""
    return CommandLine(home)


@pytest.fixture
def mill(home: Path) -> Iterator[Mill]:
    """What puts work into the home's database, and does it."""
    database = Database.from_settings(Settings.for_home(home))
    yield Mill(database)
    database.close()
