"""What a page says of a job as a whole: counts, failures, throughput and histograms."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from imagemill.db.documents import document
from imagemill.db.queries.figures import (
    PARAMETERS,
    count_scores,
    count_values,
    finished_between,
    stream_extras,
    stream_finished,
)
from imagemill.db.queries.reports import CodeReport, JobReport, count_dead, report_jobs
from imagemill.db.queries.tags import count_tags
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.pages.histograms import Histogram, extra_histograms, histogram

BARS_OVER_TIME = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Images that became done in equal spans of time from `start` on, each of `seconds`."""

    start: datetime
    seconds: float
    images: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSummary:
    """A job with its figures. `throughput` is None until an image is done."""

    job: JobReport
    failures: tuple[CodeReport, ...]
    throughput: Throughput | None
    histograms: tuple[Histogram, ...]


def summarise(session: Session, job_id: int) -> JobSummary:
    """The summary of a job; a few passes over all of its images."""
    [job] = report_jobs(session, [session.get_one(Job, job_id)])
    return JobSummary(
        job=job,
        failures=tuple(count_dead(session, job_id)),
        throughput=_throughput(session, job_id),
        histograms=tuple(_histograms(session, job_id)),
    )


def summary_document(summary: JobSummary) -> dict[str, Any]:
    """A summary as JSON for the page's scripts."""
    job = document(summary.job) | {"seed": str(summary.job.seed)}
    job |= {"counts": document(summary.job.counts)}
    for name in ("created_at", "opened_at", "finished_at"):
        job[name] = job[name].isoformat() if job[name] else None
    over_time = summary.throughput
    return {
        "job": job,
        "failures": [document(each) for each in summary.failures],
        "throughput": over_time
        and {
            "start": over_time.start.isoformat(),
            "seconds": over_time.seconds,
            "images": over_time.images,
        },
        "histograms": [
            {
                "name": each.name,
                "others": each.others,
                "bars": [document(bar) for bar in each.bars],
            }
            for each in summary.histograms
        ],
    }


def _histograms(session: Session, job_id: int) -> Iterator[Histogram]:
    for name in PARAMETERS:
        made = histogram(name, count_values(session, job_id, name))
        if made is not None:
            yield made
    for name, counts in count_scores(session, job_id).items():
        made = histogram(f"scores.{name}", counts)
        if made is not None:
            yield made
    tags = histogram("tags", count_tags(session, job_id))
    if tags is not None:
        yield tags
    yield from extra_histograms(stream_extras(session, job_id))


def _throughput(session: Session, job_id: int) -> Throughput | None:
    between = finished_between(session, job_id)
    if between is None:
        return None
    start, end = between
    # Spans of whole seconds: what is rendered faster fits into fewer bars.
    seconds = max(1, -(-int((end - start).total_seconds() + 1) // BARS_OVER_TIME))
    images = [0] * (int((end - start).total_seconds() // seconds) + 1)
    for moment in stream_finished(session, job_id):
        images[(moment - start) // timedelta(seconds=seconds)] += 1
    return Throughput(start=start, seconds=seconds, images=tuple(images))
