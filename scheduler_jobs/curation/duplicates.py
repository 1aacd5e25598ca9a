"""Groups of near-duplicates: finished images whose perceptual hashes differ in few bits."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.curation.chosen_images import chosen_images
from imagemill.scheduler_jobs.curation.hamming import group_hashes
from imagemill.scheduler_jobs.exports.selection import number_of

PHASH = "phash"


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """What `find_duplicates` found, in images. The first of each group is the one to keep."""

    compared: int
    without_hash: int
    groups: Sequence[Sequence[int]]

    @property
    def others(self) -> list[int]:
        """The ids of all but the one of each group that is kept."""
        return [image_id for group in self.groups for image_id in group[1:]]


def find_duplicates(
    session: Session,
    job_ids: Sequence[int],
    *,
    distance: int,
    where: str | None = None,
    by: str | None = None,
) -> Duplicates:
    """Groups of two and more images that differ in at most `distance` of the hash's 64 bits.

    Chains count: the ends of a group may differ in more. In each group the image with the largest
    value in the column `by` comes first, or without one the image with the lowest id. Groups are
    in the order of their first image's id.

    Raises `UsageError` if nothing has a perceptual hash, or for a column that no image has, or
    that is no number in any of them.
    """
    # Arrays, not lists: a million images are 24 MB.
    ids, hashes, ranks = array("q"), array("Q"), array("d")
    without = 0
    for image in chosen_images(session, job_ids, where, by=by):
        text = image.extras.get(PHASH)
        if not isinstance(text, str):
            without += 1
            continue
        value = None if by is None else number_of(image, by)
        ids.append(image["image_id"])
        hashes.append(int(text, 16))
        ranks.append(float("inf") if value is None else -value)
    if not ids:
        raise UsageError(
            "no image has a perceptual hash; `imagemill score JOB --with phash` gives it"
        )
    return Duplicates(
        compared=len(ids), without_hash=without, groups=_grouped(ids, hashes, ranks, distance)
    )


def _grouped(
    ids: "array[int]", hashes: "array[int]", ranks: "array[float]", distance: int
) -> list[list[int]]:
    images = np.frombuffer(ids, np.int64)
    groups = group_hashes(np.frombuffer(hashes, np.uint64), distance)
    # Sorted by group, then by rank, then by id: each group is a stretch, the one to keep first.
    order = np.lexsort((images, np.frombuffer(ranks, np.float64), groups))
    edges = np.flatnonzero(np.diff(groups[order])) + 1
    stretches = np.split(images[order], edges)
    return sorted(stretch.tolist() for stretch in stretches if len(stretch) > 1)
