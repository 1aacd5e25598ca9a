"""Owners of jobs: the names that people give, and who submits where nobody is named."""

import getpass
import os

from imagemill.db.errors import UsageError
from imagemill.db.tables import OWNER_CHARACTERS

MOST_WEIGHT = 1_000


def read_owner(text: str) -> str:
    """An owner's name; raises `UsageError` for a text that none can have."""
    name = text.strip()
    if not name or len(name) > OWNER_CHARACTERS or not name.isprintable():
        raise UsageError(
            f"owner {text!r} can't be used; allowed: 1 to {OWNER_CHARACTERS} printable characters"
        )
    return name


def this_user() -> str:
    """The name of the system's user, or its number where it has no name (as in a container)."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = f"uid {os.getuid()}"
    kept = "".join(letter for letter in name if letter.isprintable()).strip()
    return kept[:OWNER_CHARACTERS] or "nobody"
