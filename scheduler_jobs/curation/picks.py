"""Choosing the best images of each row, prompt or job by a score."""

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from sqlalchemy.orm import Session

from imagemill.scheduler_jobs.curation.chosen_images import chosen_images
from imagemill.scheduler_jobs.exports.selection import ExportImage, number_of

GROUPS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "row": ("job_id", "row_number"),
        "prompt": ("prompt",),
        "job": ("job_id",),
    }
)
"""What images compete in, by the columns that they share."""


def pick_images(
    session: Session,
    job_ids: Sequence[int],
    *,
    by: str,
    best: int,
    per: str = "row",
    lowest: bool = False,
    where: str | None = None,
) -> list[int]:
    """The ids of the `best` images of each group by the column `by`, in the order of their ids.

    The larger the better, unless `lowest`; of equal ones the first. An image without a number in
    that column is never picked. Raises `UsageError` for a column that no image has,
    or that is no number in any of them.
    """
    groups: dict[tuple[object, ...], list[tuple[float, int]]] = {}
    for image, value in _valued(session, job_ids, where, by):
        group = groups.setdefault(tuple(image[column] for column in GROUPS[per]), [])
        insort(group, (value if lowest else -value, image["image_id"]))
        del group[best:]
    return sorted(image_id for group in groups.values() for _, image_id in group)


def _valued(
    session: Session, job_ids: Sequence[int], where: str | None, by: str
) -> Iterator[tuple[ExportImage, float]]:
    for image in chosen_images(session, job_ids, where, by=by):
        value = number_of(image, by)
        if value is not None:
            yield image, value
