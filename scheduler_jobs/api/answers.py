"""Images as the API gives them: bytes in base64, or addresses to fetch them from."""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from imagemill.db.queries.image_reports import ImageReport
from imagemill.db.states import ImageState
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.api.refusals import NOT_AGAIN, ApiError
from imagemill.scheduler_jobs.pages.picture_bytes import checked_picture

AddressOf = Callable[[int], str]
"""The address of an image's picture, by the image's id."""


def images_body(
    images: Sequence[ImageReport],
    *,
    created: datetime,
    response_format: str,
    storage: Storage,
    address_of: AddressOf,
) -> dict[str, Any]:
    """The answer to one request. Raises `ApiError` if a picture of it is not there."""
    check_done(images)
    data = [
        picture_entry(image, response_format, storage=storage, address_of=address_of)
        for image in images
    ]
    first = images[0]
    return {
        "created": int(created.timestamp()),
        "background": "opaque",
        "data": data,
        "output_format": first.format,
        "size": f"{first.width}x{first.height}",
    }


def picture_entry(
    image: ImageReport, response_format: str, *, storage: Storage, address_of: AddressOf
) -> dict[str, Any]:
    """One picture: OpenAI's field, and ours, by which it is found and rendered again."""
    entry: dict[str, Any] = {"image_id": image.id, "seed": image.seed, "outcome": image.outcome}
    if response_format == "url":
        return entry | {"url": address_of(image.id)}
    return entry | {"b64_json": encoded(storage, image)}


def encoded(storage: Storage, image: ImageReport) -> str:
    """A picture's file in base64. Raises `ApiError` if it is not there, or damaged."""
    body = checked_picture(storage, image)
    if body is None:
        raise _failed(f"The file of image {image.id} is missing or damaged", "object_missing")
    return base64.b64encode(body).decode()


def check_done(images: Sequence[ImageReport]) -> None:
    """Raise `ApiError` if not every image has a picture."""
    if not images:
        raise ApiError("Its job was removed", status=404, code="job_removed", headers=NOT_AGAIN)
    failed = [image for image in images if image.state != ImageState.DONE]
    if not failed:
        return
    error = failure(failed[0])
    if len(images) == 1:
        raise error
    raise _failed(
        f"{len(failed)} of {len(images)} images failed: {error}; "
        f"job {failed[0].job_id} has the others",
        error.code or "failed",
    )


def failure(image: ImageReport) -> ApiError:
    """Why an image has no picture."""
    if image.state == ImageState.CANCELLED:
        return _failed("The job was cancelled", "cancelled")
    message = image.error_message or "It is not rendered yet"
    return _failed(message, image.error_code or "not_finished")


def failed_body(images: Sequence[ImageReport]) -> Mapping[str, Any] | None:
    """The error of a request of a batch, as a line has it; None if all of it is done."""
    try:
        check_done(images)
    except ApiError as error:
        return {"status": error.status, "error": error.body()["error"]}
    return None


def _failed(message: str, code: str) -> ApiError:
    return ApiError(message, status=500, kind="server_error", code=code, headers=NOT_AGAIN)
