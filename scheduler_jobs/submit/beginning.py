"""Looking at the beginning of a manifest before anything is created for it."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from imagemill.db.errors import ManifestError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Source
from imagemill.scheduler_jobs.submit.planned_rows import BadRow, Findings, settle_rows
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

LOOKED_AT = 200
"""Rows that are looked at."""


def check_beginning(
    request: SubmissionRequest, source: Source, settings: Settings
) -> Mapping[str, Any]:
    """The extra columns of the first rows, once header, options and model are known to be right.

    A `ManifestError` with every problem of the whole manifest if one of the first rows is bad
    (with `skip_bad_rows`: if all of them are, and there are no others), a `ModelError` if the
    model can't be used. Nothing is changed.
    """
    model = load_registry(settings).find(request.defaults.model or settings.default_model)
    weights_digest(model)
    findings, good, seen = Findings(), 0, 0
    extras: dict[str, Any] = {}
    rows = settle_rows(request, source, settings)
    for settled in islice(rows, LOOKED_AT):
        seen += 1
        if isinstance(settled, BadRow):
            findings.add(settled)
        else:
            good += 1
            extras |= settled.row.extras
    if not findings.problems:
        return extras
    if request.skip_bad_rows and not findings.fatal and (good or seen == LOOKED_AT):
        return extras
    for settled in rows:
        if isinstance(settled, BadRow):
            findings.add(settled)
    count = findings.bad_rows
    raise ManifestError(
        f"{source.name}: {count} bad {'row' if count == 1 else 'rows'}",
        problems=tuple(findings.problems),
    )
