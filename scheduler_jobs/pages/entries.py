"""What a page knows of one image, as JSON: the same for a report and the gallery."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from imagemill.db.documents import document
from imagemill.db.queries.pictures.image_reports import ImageReport
from imagemill.db.queries.pictures.scores import scores_of
from imagemill.db.queries.pictures.tags import tags_of

_LEFT_OUT = frozenset({"job_id", "object_key", "uri"})


def entries_of(session: Session, images: Sequence[ImageReport]) -> list[dict[str, Any]]:
    """Images with their columns, scores and tags; what is empty is left out.

    Columns have the names that `--json` gives them. The seed is a text: JavaScript's numbers are
    exact to 2^53 only.
    """
    tags: dict[int, list[str]] = {}
    scores: dict[int, dict[str, float | str]] = {}
    for job_id in {image.job_id for image in images}:
        ids = [image.id for image in images if image.job_id == job_id]
        tags |= tags_of(session, job_id, first=min(ids), last=max(ids))
        scores |= scores_of(session, job_id, first=min(ids), last=max(ids))
    return [_entry(image, scores.get(image.id, {}), tags.get(image.id, [])) for image in images]


def _entry(image: ImageReport, scores: dict[str, float | str], tags: list[str]) -> dict[str, Any]:
    columns = document(image) | {"seed": str(image.seed), "scores": scores, "tags": tags}
    return {
        name: value
        for name, value in columns.items()
        if name not in _LEFT_OUT and value not in (None, "", {}, [])
    }
