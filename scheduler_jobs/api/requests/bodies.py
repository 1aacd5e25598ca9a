"""The bodies of requests, read up to a limit: JSON objects, and forms with a file."""

import json
import math
from collections.abc import Collection, Iterator
from email.errors import CloseBoundaryNotFoundDefect
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, NamedTuple

from starlette.requests import Request

from imagemill.db.utf8 import is_storable, not_utf8
from imagemill.scheduler_jobs.api.refusals import ApiError, unknown, unstorable
from imagemill.scheduler_jobs.manifest.values import unique_keys

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
        found = json.loads(
            body, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError("The body is no JSON object", code="invalid_json")
    for name, value in found.items():
        if not all(map(is_storable, _texts([name, value]))):
            raise unstorable(name)
    return found


async def read_upload(request: Request, *, most_bytes: int) -> Upload:
    """A form (`multipart/form-data`) with a file called `file`. Raises `ApiError`."""
    form = await read_form(request, most_bytes=most_bytes, names=("file",))
    other = next((name for name, _ in form.files if name != "file"), None)
    if other is not None:
        raise unknown(other)
    if not form.files:
        raise ApiError("The form has no file", param="file", code="missing_required_parameter")
    if len(form.files) > 1:
        raise ApiError(
            f"Invalid value for 'file': {len(form.files):,} files; allowed: one",
            param="file",
            code="invalid_value",
        )
    return Upload(form.filenames[0] or "file", form.files[0][1], form.fields)


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
    if any(isinstance(each, CloseBoundaryNotFoundDefect) for each in form.defects):
        raise ApiError("The form is cut off: its last boundary is missing", code="invalid_form")
    found = Form([], [], {})
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes) or not isinstance(name, str):
            continue
        filename = part.get_filename()
        if not is_storable(f"{name}{filename or ''}"):
            raise unstorable(name)
        if name not in names and filename is None:
            _add_field(found.fields, name, content)
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


def _add_field(fields: dict[str, str], name: str, content: bytes) -> None:
    """Add a form's field. Raises `ApiError` for a second one of the name, and for no text."""
    if name in fields:
        raise ApiError(
            f"Invalid value for {name[:80]!r}: given twice; allowed: once",
            param=name[:200],
            code="invalid_value",
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        found, _ = not_utf8(error)
        raise ApiError(
            f"Invalid value for {name[:80]!r}: {found}; allowed: UTF-8",
            param=name[:200],
            code="invalid_value",
        ) from None
    if not is_storable(text):
        raise unstorable(name)
    fields[name] = text


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _texts(values: list[Any]) -> Iterator[str]:
    """Every text in values of JSON, however deep: also the names."""
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            values += [*value.keys(), *value.values()]


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
