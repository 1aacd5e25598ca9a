"""The bodies of requests, read up to a limit: JSON objects, and forms with a file."""

import json
from collections.abc import Collection
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, NamedTuple

from starlette.requests import Request

from imagemill.scheduler_jobs.api.refusals import ApiError

MOST_JSON_BYTES = 1 << 20


class Form(NamedTuple):
    """A form's files, each with the name of its field, and its other fields."""

    files: list[tuple[str, bytes]]
    filenames: list[str]
    fields: dict[str, str]


class Upload(NamedTuple):
    """A form's file and its other fields."""

    filename: str
    content: bytes
    fields: dict[str, str]


class Page(NamedTuple):
    """Which part of a list is wanted: so many, from behind the one with the id `after`."""

    limit: int
    after: str | None

    def body(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer. `found` has one more than `limit`, if there are more."""
        shown = found[: self.limit]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(found) > self.limit,
        }


def read_page(request: Request, *, most: int, usual: int) -> Page:
    """The `limit` and `after` of a request. Raises `ApiError`."""
    text = request.query_params.get("limit", str(usual))
    if not text.isdecimal() or len(text) > 6 or not 1 <= int(text) <= most:
        raise ApiError(
            f"Invalid limit: a number from 1 to {most}", param="limit", code="invalid_value"
        )
    return Page(int(text), request.query_params.get("after"))


async def read_json(request: Request, *, most_bytes: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """The JSON object that was sent. Raises `ApiError`."""
    if media_type(request) != "application/json":
        # A form of a web page can't send this type, so no page writes here behind a user's back.
        raise ApiError("Send JSON, with the header Content-Type: application/json", status=415)
    body = await read_body(request, most_bytes=most_bytes)
    try:
        found = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError("The body is no JSON object", code="invalid_json")
    return found


async def read_upload(request: Request, *, most_bytes: int) -> Upload:
    """A form (`multipart/form-data`) with a file called `file`. Raises `ApiError`."""
    form = await read_form(request, most_bytes=most_bytes, names=("file",))
    if not form.files:
        raise ApiError("The form has no file", param="file", code="missing_required_parameter")
    return Upload(form.filenames[-1] or "file", form.files[-1][1], form.fields)


async def read_form(
    request: Request, *, most_bytes: int, names: Collection[str] = (), most_files: int = 1
) -> Form:
    """A form (`multipart/form-data`). Raises `ApiError`.

    A part that has a file's name is a file of at most `most_bytes`, and so is one of these
    `names`. The whole body is no larger than so many files of that size.
    """
    if media_type(request) != "multipart/form-data":
        raise ApiError("Send a form, with the header Content-Type: multipart/form-data", status=415)
    body = await read_body(request, most_bytes=most_files * most_bytes + MOST_JSON_BYTES)
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n"
    form = BytesParser(policy=HTTP).parsebytes(head.encode("latin-1") + body)
    found = Form([], [], {})
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes) or not isinstance(name, str):
            continue
        filename = part.get_filename()
        if name not in names and filename is None:
            found.fields[name] = content.decode("utf-8", "replace")
            continue
        if len(content) > most_bytes:
            raise _too_large(most_bytes)
        found.files.append((name, content))
        found.filenames.append(filename or "")
    return found


async def read_body(request: Request, *, most_bytes: int) -> bytes:
    """The whole body. Raises `ApiError` as soon as it is known to be too large."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most_bytes:
            raise _too_large(most_bytes)
    return bytes(body)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def media_type(request: Request) -> str:
    """The type of what was sent, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(
        f"The body is too large: at most {most_bytes:,} bytes",
        status=413,
        code="request_too_large",
        headers={"connection": "close"},
    )
