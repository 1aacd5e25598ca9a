"""The page of a manifest's columns, written from `scheduler_jobs/manifest/columns/fields.py`."""

from pydantic import ValidationError

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Limits, Parameters
from imagemill.scheduler_jobs.manifest.columns.fields import FIELDS, PROMPT, PROMPT_FALLBACKS, Field
from imagemill.scheduler_jobs.manifest.rows import bad_fields

_HEAD = """# Columns of a manifest

Written by `python -m tools.pages` from `scheduler_jobs/manifest/columns/fields.py`; a test \
holds that it is current.

How names are compared, and what becomes of every other column, is told in \
[manifests.md](manifests.md#columns). The bounds are those of the default \
[settings](settings.md). A flag sets the field for rows that do not.

| field | also called | what it may be | meaning | flag |
| --- | --- | --- | --- | --- |
"""

_NEVER_GOOD = ("../?", object())
"""Values that no field takes both of: what is refused says what may stand there."""


def page() -> str:
    """The text of docs/columns.md."""
    limits = Limits.from_settings(Settings())
    return _HEAD + "".join(_row(name, about, limits) for name, about in FIELDS.items())


def _row(name: str, about: Field, limits: Limits) -> str:
    also = [*about.also, *about.counted_as, *(PROMPT_FALLBACKS if name == PROMPT else ())]
    cells = (
        f"`{name}`",
        ", ".join(f"`{other}`" for other in also),
        about.allowed or allowed(name, limits),
        about.meaning,
        "" if about.flag is None else f"`{about.flag.name} {about.flag.value}`",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def allowed(field: str, limits: Limits) -> str:
    """What a parameter may be, in the words of the error that a wrong value gets."""
    for value in _NEVER_GOOD:
        try:
            Parameters.model_validate({field: value}, context=limits)
        except ValidationError as error:
            return next(bad_fields(error))[2]
    raise AssertionError(f"{field} takes anything")
