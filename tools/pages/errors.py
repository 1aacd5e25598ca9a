"""The page of error codes, written from the classes of `db/errors.py`."""

from collections.abc import Iterator

from imagemill.db.errors import ImagemillError
from imagemill.db.queries.work import shifts

_HEAD = """# Error codes

Written by `python -m tools.pages` from `db/errors.py`; a test holds that it is current.

Each error has a code that never changes. It is stored with an attempt, shown by \
`imagemill errors JOB`, and printed with `--json`. *Retryable* says whether the same request may \
succeed later without anybody changing anything. The exit code is what a command ends with.

| code | retryable | exit code | a kind of | meaning |
| --- | --- | --- | --- | --- |
"""

_FOOT = """
One more code is stored with images and belongs to no class: `{code}` (retryable: {retryable}): \
{message}.
"""


def error_classes(root: type[ImagemillError] = ImagemillError) -> Iterator[type[ImagemillError]]:
    """`root` and every class below it, a parent before its children, in the file's order."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield from error_classes(child)


def page() -> str:
    """The text of docs/errors.md."""
    rows = []
    for error in error_classes():
        parent = error.__base__
        kind = f"`{parent.code}`" if parent and issubclass(parent, ImagemillError) else ""
        meaning = " ".join((error.__doc__ or "").split())
        retryable = "yes" if error.retryable else "no"
        rows.append(f"| `{error.code}` | {retryable} | {error.exit_code} | {kind} | {meaning} |\n")
    lost = shifts.LOST
    foot = _FOOT.format(
        code=lost.code, retryable="yes" if lost.retryable else "no", message=lost.message
    )
    return _HEAD + "".join(rows) + foot
