"""Giving tags to images and taking them away."""

import re
from collections.abc import Sequence

from imagemill.db.database import Database
from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.tags import add_tag, remove_tag

_TAG = re.compile(r"[\w.:/+-]{1,64}")


def check_tag(tag: str) -> str:
    """The tag. Raises `UsageError` unless it is 1 to 64 letters, digits and _ . : / + -."""
    if _TAG.fullmatch(tag) is None or not tag.isprintable():
        raise UsageError(f"{tag!a} is no tag; allowed: 1 to 64 letters, digits and _ . : / + -")
    return tag


def tag_images(database: Database, image_ids: Sequence[int], tag: str) -> int:
    """Give a tag to images; to how many it is new."""
    return database.run(lambda session: add_tag(session, image_ids, tag))


def untag_images(database: Database, image_ids: Sequence[int], tag: str) -> int:
    """Take a tag from images; how many had it."""
    return database.run(lambda session: remove_tag(session, image_ids, tag))
