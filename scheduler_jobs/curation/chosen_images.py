"""The finished images that a command works on: of a job, or named one by one, by a condition."""

import re
from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session

from imagemill.db.errors import UnknownImage
from imagemill.db.queries.images import jobs_of
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.states import Outcome
from imagemill.scheduler_jobs.exports.selection import (
    ExportImage,
    SeenNames,
    Selection,
    select_images,
)

_IMAGES = re.compile(r"image:(\d{1,18}(?:,\d{1,18})*)")


def chosen_images(
    session: Session, job_ids: Sequence[int], where: str | None, *, by: str | None = None
) -> Iterator[ExportImage]:
    """The finished images of jobs that a condition holds for, of any outcome.

    At the end, a `UsageError` for a column of the condition, or `by`, that no image has,
    and if `by` has no number in any image.
    """
    seen = SeenNames(by)
    selection = Selection(jobs=job_ids, outcomes=list(Outcome), where=where)
    yield from select_images(session, selection, seen=seen)
    seen.check_by("--by")


def named_images(session: Session, what: str, where: str | None) -> list[int]:
    """The ids of what `JOB` or `image:1,2,3` names, as far as the condition holds.

    Raises:
        UnknownJob: no job has this id or name.
        UnknownImage: there is no such image.
        UsageError: the condition can't be read, or asks for what no image has.
    """
    match = _IMAGES.fullmatch(what)
    if match is None:
        jobs = [find_job(session, what).id]
        return [image["image_id"] for image in chosen_images(session, jobs, where)]
    wanted = {int(number) for number in match[1].split(",")}
    jobs_by_image = jobs_of(session, sorted(wanted))
    if missing := sorted(wanted - set(jobs_by_image)):
        raise UnknownImage(f"no image {missing[0]}; `imagemill images` lists them")
    if where is None:
        return sorted(wanted)
    jobs = sorted(set(jobs_by_image.values()))
    held = {image["image_id"] for image in chosen_images(session, jobs, where)}
    return sorted(wanted & held)
