"""What a job that was there already keeps of its own, although a submission says something else.

Its rows and what is rendered of them are the same, so it is the same job; when, where and by whom
it is rendered was said when it was made.
"""

from collections.abc import Iterator
from datetime import timedelta

from imagemill.db.labels import label_text, labels_of
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.owners import this_user
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

_EDITED = frozenset({"priority", "weight", "max-workers", "needs", "deadline"})
"""Those that `imagemill edit` changes."""


def kept_options(request: SubmissionRequest, job: Job) -> str | None:
    """A line about the options that have no effect on this job, which has others; None if none."""
    kept = dict(_kept(request, job))
    if not kept:
        return None
    told = ", ".join(f"{name} {value}" for name, value in kept.items())
    line = f"job {job.id} ({job.name}) was there already and keeps {told}"
    if kept.keys() & _EDITED:
        line += f"; `imagemill edit {job.id}` changes {', '.join(sorted(kept.keys() & _EDITED))}"
    return line


def _kept(request: SubmissionRequest, job: Job) -> Iterator[tuple[str, str]]:
    """The options that say something, and what the job has instead."""
    if request.name not in (None, job.name):
        yield "name", job.name
    if request.route != job.route:
        yield "route", job.route
    if request.owner not in (this_user(), job.owner):
        yield "owner", job.owner
    if request.priority not in (0, job.priority):
        yield "priority", str(job.priority)
    if request.weight not in (1, job.weight):
        yield "weight", str(job.weight)
    if request.max_workers not in (None, job.max_workers):
        yield "max-workers", "without limit" if job.max_workers is None else str(job.max_workers)
    if request.needs and dict(request.needs) != labels_of(job.needs):
        yield "needs", label_text(labels_of(job.needs)) or "nothing"
    if _is_other_deadline(request, job):
        yield "deadline", "none" if job.deadline_at is None else job.deadline_at.isoformat()


def _is_other_deadline(request: SubmissionRequest, job: Job) -> bool:
    """Whether a time is another one. A duration began when the job was made, and is the same."""
    if isinstance(request.deadline, timedelta):
        return job.deadline_at is None
    return request.deadline not in (None, job.deadline_at)
