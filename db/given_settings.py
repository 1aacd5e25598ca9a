"""Where settings come from: variables, a file, and the folders of `run` and `up`.

Nothing is checked here but that it can be read; `settings` gives each value its type. That takes
0.15 s of imports, and `imagemill status` needs no more than an address.
"""

import difflib
import json
import logging
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from imagemill.db.errors import SettingsError
from imagemill.db.real_paths import real_path
from imagemill.db.toml_files import TomlError, load_toml
from imagemill.db.utf8 import is_utf8

DATABASE_URL = "sqlite:///imagemill.sqlite3"
"""The database where nothing names one."""

DATABASE_FILE = "imagemill.sqlite3"
OBJECTS_FOLDER = "objects"
ENVIRONMENT_FILE = "environment.json"
"""In the folder of `imagemill up`: the variables by which commands find its services."""

_PREFIX = "imagemill_"
_ALIKE = 0.8
"""How alike a variable's name and a setting's are that a mistake is likely (`difflib`'s ratio)."""

log = logging.getLogger(__name__)


def in_environment() -> dict[str, str]:
    """The values of `IMAGEMILL_*` variables, in capitals or not, by what follows the prefix."""
    found = {name.lower(): value for name, value in os.environ.items()}
    return {
        name.removeprefix(_PREFIX): value
        for name, value in found.items()
        if name.startswith(_PREFIX)
    }


def warn_of_mistyped(settings: Collection[str]) -> None:
    """Log a line, once, for every variable that is no setting and is spelt almost as one.

    It is no error: others have variables with our prefix too (the compose file, commands of ours,
    workers of another version), and most of them are like no setting.
    """
    known = {*settings, "config"}
    for name in sorted(in_environment().keys() - known):
        for meant in difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE):
            _warn(name.upper(), meant.upper())


@cache
def _warn(name: str, meant: str) -> None:
    log.warning("IMAGEMILL_%s is no setting; did you mean IMAGEMILL_%s?", name, meant)


def in_file() -> dict[str, Any]:
    """The values in the file that `IMAGEMILL_CONFIG` names, else in `imagemill.toml` here.

    No values if none is named and none is here. Raises `SettingsError` if it can't be read.
    """
    named = os.environ.get("IMAGEMILL_CONFIG")
    file = Path(named or "imagemill.toml")
    if not named and not file.exists():
        return {}
    try:
        return load_toml(file)
    except OSError as error:
        raise SettingsError(f"the settings file {file}: {error.strerror}") from None
    except TomlError as error:
        raise SettingsError(f"the settings file {file}: {error}") from None


def in_home(home: Path) -> dict[str, str]:
    """The settings for the database and pictures of `imagemill run --out HOME`."""
    home = real_path(home)
    if "?" in str(home):  # where the options of a database's URL begin
        raise SettingsError(f"{home}: a folder for pictures can't have a ? in its path")
    if not is_utf8(str(home)):
        raise SettingsError(f"{str(home)!a}: a folder for pictures needs UTF-8 names")
    return {
        "database_url": f"sqlite:///{home / DATABASE_FILE}",
        "storage_url": str(home / OBJECTS_FOLDER),
    }


def is_given(name: str) -> bool:
    """Whether a variable or the settings file has a value for a setting."""
    return name in in_environment() or name in in_file()


def named_database() -> str | None:
    """The database's URL where variables alone say it; None if the settings must be read for it.

    A settings file is always read whole, so that what is wrong in it is said.
    """
    if in_file():
        return None
    warn_of_mistyped({"database_url"})
    return in_environment().get("database_url", DATABASE_URL)


def home_environment(home: Path) -> dict[str, str]:
    """The variables for commands on a folder of `imagemill run` or of `imagemill up`.

    Raises `SettingsError` if the folder's file of passwords can't be read, or others can read it.
    """
    file = home / ENVIRONMENT_FILE
    if not file.is_file():
        return {f"IMAGEMILL_{name.upper()}": value for name, value in in_home(home).items()}
    return read_environment(file)


def read_environment(file: Path) -> dict[str, str]:
    """The variables in the file of a folder of `imagemill up`. Raises `SettingsError`."""
    try:
        if file.stat().st_mode & 0o077:
            raise SettingsError(f"{file}: others can read its passwords; chmod 600 {file}")
        return {str(name): str(value) for name, value in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise SettingsError(f"{file} can't be read: {error}") from None
