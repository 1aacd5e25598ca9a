"""The files of a batch's results. They are not stored: every line is read when it is asked for.

So they are never out of date, cost no room, and end with the batch's job.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from imagemill.db.database import Database
from imagemill.db.queries.api import requests
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.states import ApiState, ImageState
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.api.answers import (
    AddressOf,
    Encode,
    encoded,
    failed_error,
    images_body,
)
from imagemill.scheduler_jobs.api.batch_files.lines import error_line, output_line, unfinished_line
from imagemill.scheduler_jobs.api.refusals import ApiError

OUTPUT = "output"
ERRORS = "errors"

_PAGE = 200
_UNFINISHED = {
    ApiState.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    ApiState.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was."),
}


def file_ids(request: requests.Request) -> tuple[str | None, str | None]:
    """The ids of a batch's output file and of its file of errors; None for one without lines."""
    completed = request.counts.get("completed", 0)
    others = request.counts.get("total", 0) - completed
    return (
        result_id(request.id, OUTPUT) if completed else None,
        result_id(request.id, ERRORS) if others else None,
    )


def result_id(batch_id: str, which: str) -> str:
    """The id of a file of results."""
    return f"file-{batch_id.removeprefix('batch_')}-{which}"


def batch_of(file_id: str) -> tuple[str, str] | None:
    """The batch, and which of its files this is; None for an id of another kind."""
    name, _, which = file_id.removeprefix("file-").rpartition("-")
    return (f"batch_{name}", which) if name and which in (OUTPUT, ERRORS) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Reads the results of an ended batch."""

    database: Database
    storage: Storage
    address_of: AddressOf

    def lines(self, request: requests.Request, which: str) -> Iterator[str]:
        """The lines of a file, in the order of the batch's lines."""
        return self._lines(request, which, lambda image: encoded(self.storage, image))

    def size_bytes(self, request: requests.Request, which: str) -> int:
        """The size of a file, without reading a picture: base64 makes four bytes of three."""
        pictures: list[int] = []

        def noted(image: ImageReport) -> str:
            pictures.append(image.id)
            return ""

        total = sum(len(line) for line in self._lines(request, which, noted))
        for start in range(0, len(pictures), _PAGE):
            with self.database.reading() as session:
                sizes = requests.sizes_of(session, pictures[start : start + _PAGE])
            total += sum(-(-size // 3) * 4 for size in sizes.values())
        return total

    def _lines(self, request: requests.Request, which: str, encode: Encode) -> Iterator[str]:
        if which == ERRORS:
            for refused in request.refused:
                yield error_line(request.id, refused["line"], refused)
        for _, found in groupby(self._images(request), key=lambda image: image.row):
            images = list(found)
            failed = _failed_line(request, images)
            if failed is None and which == OUTPUT:
                yield self._output_line(request, images, encode)
            elif failed is not None and which == ERRORS:
                yield failed

    def _output_line(
        self, request: requests.Request, images: list[ImageReport], encode: Encode
    ) -> str:
        row, custom_id = images[0].row, images[0].key or ""
        try:
            body = images_body(
                images,
                created=request.ended_at or request.created_at,
                response_format=images[0].extras.get("response_format", "b64_json"),
                encode=encode,
                address_of=self.address_of,
            )
        except ApiError as missing:  # a file of the store is lost or damaged
            return error_line(request.id, row, _as_refused(custom_id, missing))
        return output_line(request.id, row, custom_id, body)

    def _images(self, request: requests.Request) -> Iterator[ImageReport]:
        """A job's images in the order of its rows; no transaction stays open between pages."""
        after = None
        while request.job_id is not None:
            with self.database.reading() as session:
                which = ImageFilter(job_id=request.job_id)
                page = list_images(session, which, limit=_PAGE, after=after)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].id


def _failed_line(request: requests.Request, images: list[ImageReport]) -> str | None:
    """The line of a request that has not all of its pictures; None if it has."""
    row, custom_id = images[0].row, images[0].key or ""
    if any(image.state == ImageState.CANCELLED for image in images):
        code, message = _UNFINISHED.get(request.state, _UNFINISHED[ApiState.CANCELLED])
        return unfinished_line(request.id, row, custom_id, code=code, message=message)
    error = failed_error(images)
    return None if error is None else error_line(request.id, row, _as_refused(custom_id, error))


def _as_refused(custom_id: str, error: ApiError) -> dict[str, Any]:
    return {"custom_id": custom_id, "status": error.status, "error": error.body()["error"]}
