"""A finished job: a manifest that was really submitted, rendered by the fake engine."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit
from tests.helpers.mill import Mill
from tests.helpers.workshop import Workshop

PNG_ROWS = (
    {"prompt": "a red circle", "id": "p1", "mood": "calm", "rating": 3},
    {"prompt": "a blue square, =1+1", "id": "p2", "mood": "=cmd()", "rating": 5},
    {"prompt": "a green star 日本 🎨", "id": "p3", "rating": 4.5},
)


def finished_job(
    mill: Mill,
    storage: Storage,
    folder: Path,
    rows: Iterable[Mapping[str, Any]] = PNG_ROWS,
    *,
    name: str = "set",
    samples: int = 2,
) -> int:
    """Submit rows as JSON Lines, render them into the store, and give the job's id."""
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Nobody listens there: rendering is done here, without a broker.
    settings = Settings.load(broker_url="redis://127.0.0.1:1/0", storage_url=storage.uri)
    request = SubmissionRequest(
        manifest=str(manifest), defaults=Parameters(samples=samples, steps=2)
    )
    job_id = submit(request, settings=settings, database=mill.database).job_id
    workshop = Workshop(mill, folder / f"unused-{name}")
    workshop.storage = storage
    while mill.counts(job_id).pending:
        workshop.shift()
    mill.finish_jobs()
    return job_id
