"""The facts of an export: what was asked for, what rendered it, what was left out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from imagemill.db.models.components import license_of
from imagemill.db.models.registry import Registry
from imagemill.db.queries.pictures.dataset import count_outcomes
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.exports.export import ExportPlan
from imagemill.scheduler_jobs.exports.selection import Selection

NOT_SELECTED = "not selected"
"""The reason of images that the outcome would let in and a condition, or --best, leaves out."""


def facts_of(
    session: Session, selection: Selection, plan: ExportPlan, registry: Registry | None
) -> dict[str, Any]:
    """The facts as JSON. They are part of the export's record, so its digest covers them.

    Without a registry, no model's licence is known.
    """
    return {
        "jobs": _jobs(session, selection.jobs),
        "models": [
            {
                "name": name,
                "weights_digest": digest,
                "license": None if registry is None else license_of(registry, name, digest),
                "images": images,
            }
            for (name, digest), images in sorted(plan.models.items())
        ],
        "samplers": dict(sorted(plan.samplers.items())),
        "ranges": {name: list(ends) for name, ends in sorted(plan.ranges.items())},
        "sizes": dict(sorted(plan.sizes.items())),
        "rows": plan.rows,
        "splits": dict(sorted(plan.splits.items())),
        "left_out": _left_out(session, selection, plan),
    }


def _jobs(session: Session, ids: Iterable[int]) -> list[dict[str, Any]]:
    """What was asked for. Of a manifest's path only its name: a set may be published."""
    found = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(list(ids))))}
    return [
        {
            "job_id": job_id,
            "job_name": found[job_id].name,
            "manifest": PurePath(found[job_id].manifest).name,
            "manifest_sha256": found[job_id].manifest_sha256,
            "seed": found[job_id].seed,
            "defaults": found[job_id].defaults,
        }
        for job_id in ids
    ]


def _left_out(session: Session, selection: Selection, plan: ExportPlan) -> Mapping[str, int]:
    """The images of the jobs that are not in the export, by outcome or by error code."""
    counts: Counter[str] = Counter()
    for job_id in selection.jobs:
        counts.update(count_outcomes(session, job_id))
    taken = sum(counts.pop(outcome.value, 0) for outcome in selection.outcomes)
    if taken > plan.images:
        counts[NOT_SELECTED] = taken - plan.images
    return dict(sorted(counts.items()))
