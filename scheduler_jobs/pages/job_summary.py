"""What a page says of a job as a whole: counts, failures, throughput and histograms."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from imagemill.db.documents import document
from imagemill.db.queries.fleet.reports import CodeReport, JobReport, count_dead, report_jobs
from imagemill.db.queries.pictures.figures import (
    PARAMETERS,
    count_scores,
    count_values,
    finished_between,
    stream_extras,
    stream_finished,
)
from imagemill.db.queries.pictures.tags import count_tags
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
class JobFigures:
    """What takes a few passes over all images of a job. `throughput` is None until one is done."""

    failures: tuple[CodeReport, ...]
    throughput: Throughput | None
    histograms: tuple[Histogram, ...]


NO_FIGURES = JobFigures(failures=(), throughput=None, histograms=())


def job_figures(session: Session, job_id: int) -> JobFigures:
    """The figures of a job."""
    return JobFigures(
        failures=tuple(count_dead(session, job_id)),
        throughput=_throughput(session, job_id),
        histograms=tuple(_histograms(session, job_id)),
    )


def job_report(session: Session, job_id: int) -> JobReport:
    """A job with its counts, as it is now; this is quick however large the job is."""
    [job] = report_jobs(session, [session.get_one(Job, job_id)])
    return job


def summary_document(job: JobReport, figures: dict[str, Any], *, command: str) -> dict[str, Any]:
    """A job and its `figures_document` as JSON for the page's scripts.

    `command` is the beginning of a command line on this database: `imagemill --home out`.
    """
    shown = document(job) | {"seed": str(job.seed), "counts": document(job.counts)}
    for name in ("created_at", "opened_at", "finished_at"):
        shown[name] = shown[name].isoformat() if shown[name] else None
    return {"job": shown, "command": command, **figures}


def figures_document(figures: JobFigures) -> dict[str, Any]:
    """A job's figures as JSON."""
    over_time = figures.throughput
    return {
        "failures": [document(each) for each in figures.failures],
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
            for each in figures.histograms
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
