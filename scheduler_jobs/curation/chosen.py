"""The finished images that a command works on: of a job, or named one by one, by a condition."""

import re
from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session

from imagemill.db.errors import UnknownImage, UsageError
from imagemill.db.queries.images import jobs_of
from imagemill.db.queries.jobs import find_job
from imagemill.db.scorers import known_scorers
from imagemill.db.states import Outcome
from imagemill.scheduler_jobs.exports.selection import (
    ExportImage,
    Selection,
    known_names,
    select_images,
)
from imagemill.scheduler_jobs.exports.where import Condition

_IMAGES = re.compile(r"image:(\d{1,18}(?:,\d{1,18})*)")


def chosen_images(
    session: Session, job_ids: Sequence[int], where: str | None, *, by: str | None = None
) -> Iterator[ExportImage]:
    """The finished images of jobs that a condition holds for, of any outcome.

    At the end, a `UsageError` for a column of the condition, or `by`, that no image has.
    """
    condition = None if where is None else Condition(where)
    seen = set(known_names())
    for image in select_images(session, Selection(jobs=job_ids, outcomes=list(Outcome))):
        seen.update(image.extras)
        if condition is None or condition.holds(image.named):
            yield image
    asked = {"--where": frozenset() if condition is None else condition.columns}
    asked["--by"] = frozenset() if by is None else frozenset([by])
    for option, names in asked.items():
        for name in sorted(names - seen):
            raise UsageError(f"{option}: nothing is called {name!r}{_hint(name, seen)}")


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


def _hint(name: str, seen: set[str]) -> str:
    if name in known_scorers():
        return f"; `imagemill score JOB --with {name}` gives it"
    return f"; there are {', '.join(sorted(seen))}"
