"""What a page knows of one image, as JSON: the same for a report and the gallery."""

from typing import Any

from imagemill.db.documents import document
from imagemill.db.queries.image_reports import ImageReport

_LEFT_OUT = frozenset({"job_id", "object_key", "uri"})


def entry_of(image: ImageReport) -> dict[str, Any]:
    """An image's columns by the names that `--json` gives them; empty ones are left out.

    The seed is a text: JavaScript's numbers are exact to 2^53 only.
    """
    columns = {
        name: value
        for name, value in document(image).items()
        if name not in _LEFT_OUT and value not in (None, "", {}, [])
    }
    return columns | {"seed": str(image.seed)}
