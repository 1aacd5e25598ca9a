"""The first rows of a manifest, checked before anything is created for it."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Source
from imagemill.scheduler_jobs.submit.planning.planned_rows import Findings, RefusedRow, plan_rows
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

LOOKED_AT = 200
"""How many rows are checked."""


def check_model(name: str, settings: Settings) -> None:
    """Raises `ModelError` if no model has this name, or its weights are not here."""
    weights_digest(load_registry(settings).find(name))


def check_first_rows(
    request: SubmissionRequest, source: Source, settings: Settings
) -> Mapping[str, Any]:
    """The extra columns of the first rows, after header, options and model were found right.

    Raises `ManifestError`, with every problem of the whole manifest, if one of the first rows is
    bad; with `skip_bad_rows` only if there are no good rows at all. Raises `ModelError` if the
    model can't be used. Nothing is changed.
    """
    check_model(request.defaults.model or settings.default_model, settings)
    findings, good, seen = Findings(), 0, 0
    extras: dict[str, Any] = {}
    rows = plan_rows(request, source, settings)
    for row in islice(rows, LOOKED_AT):
        seen += 1
        if isinstance(row, RefusedRow):
            findings.add(row)
        else:
            good += 1
            extras |= row.extras
    if not findings.problems:
        return extras
    if request.skip_bad_rows and not findings.fatal and (good or seen == LOOKED_AT):
        return extras
    for row in rows:
        if isinstance(row, RefusedRow):
            findings.add(row)
    raise findings.error(source.name)
