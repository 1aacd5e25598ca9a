"""The layers below the rows: flags of the command line, and a TOML file of defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imagemill.db.errors import ManifestError
from imagemill.db.toml_files import TomlError, load_toml
from imagemill.scheduler_jobs.manifest.columns.fields import KEY, PROMPT, SIZE
from imagemill.scheduler_jobs.manifest.columns.layout import field_of
from imagemill.scheduler_jobs.manifest.limits import Limits
from imagemill.scheduler_jobs.manifest.parameters import Parameters
from imagemill.scheduler_jobs.manifest.problems import BadValue, Problem
from imagemill.scheduler_jobs.manifest.rows import bad_fields
from imagemill.scheduler_jobs.manifest.values import size


def parameters_from_flags(
    flags: Mapping[str, Any], *, limits: Limits | None = None, name: str = "command line"
) -> Parameters:
    """Parameters from names (or synonyms) and values. None means that a flag is not set.

    Raises:
        ManifestError: some flags are wrong; it has one line for each.
    """
    fields: dict[str, Any] = {}
    named: dict[str, str] = {}
    problems: list[Problem] = []
    for flag, value in flags.items():
        if value is None:
            continue
        try:
            given = _given(field_of(flag) or flag, value, fields)
        except BadValue as bad:
            problems.append(Problem(file=name, column=flag, found=bad.found, allowed=bad.allowed))
        else:
            fields |= given
            named |= dict.fromkeys(given, flag)
    parameters = Parameters()
    try:
        parameters = Parameters.model_validate(fields, context=limits)
    except ValidationError as error:
        problems += [
            Problem(file=name, column=named.get(field), found=found, allowed=allowed)
            for field, found, allowed in bad_fields(error)
        ]
    if problems:
        raise ManifestError("\n".join(map(str, problems)), problems=tuple(problems))
    return parameters


def parameters_from_toml(path: Path, *, limits: Limits | None = None) -> Parameters:
    """Parameters from a TOML file of `name = value` lines.

    Raises:
        ManifestError: the file can't be read, or some values are wrong; it has one line for each.
    """
    try:
        document = load_toml(path)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except OSError as error:
        raise ManifestError(f"{path}: can't be read: {error.strerror}") from None
    except TomlError as error:
        raise ManifestError(f"{path}: {error}") from None
    return parameters_from_flags(document, limits=limits, name=str(path))


def _given(field: str, value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a flag sets: itself, or width and height for a size."""
    if field in {PROMPT, KEY}:
        raise BadValue("only a row has one", "in the manifest")
    given = {field: value}
    if field == SIZE:
        given = dict(zip(("width", "height"), size(value), strict=True))
    for name in given:
        if name in fields:
            raise BadValue(f"{name} is given twice", "once")
    return given
