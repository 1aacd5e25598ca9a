"""Images as the API gives them: bytes in base64, or addresses to fetch them from."""

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from imagemill.db.queries.pictures.image_reports import ImageReport
from imagemill.db.states import ImageState
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.api.refusals import NOT_AGAIN, ApiError
from imagemill.scheduler_jobs.pages.picture_bytes import checked_picture

AddressOf = Callable[[int], str]
"""The address of an image's picture, by the image's id."""

Encode = Callable[[ImageReport], str]
"""A picture's file in base64."""


def images_body(
    images: Sequence[ImageReport],
    *,
    created: datetime,
    response_format: str,
    encode: Encode,
    address_of: AddressOf,
) -> dict[str, Any]:
    """The answer to one request. Raises `ApiError` if a picture of it is not there."""
    error = failed_error(images)
    if error is not None:
        raise error
    data: list[dict[str, Any]] = []
    for image in images:
        entry = {"image_id": image.id, "seed": image.seed, "outcome": image.outcome}
        if response_format == "url":
            data.append(entry | {"url": address_of(image.id)})
        else:
            data.append(entry | {"b64_json": encode(image)})
    first = images[0]
    return {
        "created": int(created.timestamp()),
        "background": "opaque",
        "data": data,
        "output_format": first.format,
        "size": f"{first.width}x{first.height}",
    }


def encoded(storage: Storage, image: ImageReport) -> str:
    """A picture's file in base64. Raises `ApiError` if it is not there, or damaged."""
    body = checked_picture(storage, image)
    if body is None:
        raise _failed(f"The file of image {image.id} is missing or damaged", "object_missing")
    return base64.b64encode(body).decode()


def failed_error(images: Sequence[ImageReport]) -> ApiError | None:
    """Why a request can't be answered; None if every image has a picture."""
    if not images:
        return ApiError("Its job was removed", status=404, code="job_removed", headers=NOT_AGAIN)
    failed = [image for image in images if image.state != ImageState.DONE]
    if not failed:
        return None
    error = failure(failed[0])
    if len(images) == 1:
        return error
    return _failed(
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


def _failed(message: str, code: str) -> ApiError:
    return ApiError(message, status=500, kind="server_error", code=code, headers=NOT_AGAIN)
