"""Pictures that a JSON body names, as OpenAI has them: `{"file_id": …}` or `{"image_url": …}`.

The file was uploaded to `/v1/files`; the URL holds the picture itself (`data:image/png;base64,…`).
Other addresses are refused: a server that fetches what a client names can be made to read what
only the server may.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from imagemill.db.storage.inputs import MAX_INPUT_BYTES
from imagemill.db.utf8 import is_storable
from imagemill.scheduler_jobs.api.refusals import ApiError, answerable, bad_value, missing

ContentOf = Callable[[str], bytes | None]
"""The bytes of an uploaded file by its id; None if there is none that the caller may read."""

_PICTURE, _PICTURES, _MASK = "image", "images", "mask"
_FORMS = ("file_id", "image_url")
_DATA = re.compile(r"data:image/[A-Za-z0-9.+-]{1,40};base64,")


def split_body(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A body's other fields, and its references by `image` and `mask`: file ids and data URLs.

    Raises `ApiError` for a reference of another form, and for none or several pictures.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    pictures = fields.pop(_PICTURES, [])
    if not isinstance(pictures, list):
        raise bad_value(_PICTURES, pictures, "a list of one picture")
    found = [(_PICTURE, each) for each in pictures]
    if _PICTURE in fields:
        found.append((_PICTURE, fields.pop(_PICTURE)))
    if not found:
        raise missing(_PICTURES, 'such as [{"file_id": "file-…"}]')
    if len(found) > 1:
        raise ApiError(
            "Invalid value for 'images': several pictures; allowed: one",
            param=_PICTURES,
            code="invalid_value",
        )
    references = {_PICTURE: _reference(*found[0])}
    if _MASK in fields:
        references[_MASK] = _reference(_MASK, fields.pop(_MASK))
    return fields, references


def read_picture(name: str, reference: str, content_of: ContentOf) -> bytes:
    """A reference's bytes. Raises `ApiError`."""
    if not reference.startswith("data:"):
        # No database looks for such a text.
        content = content_of(reference) if is_storable(reference) else None
        if content is None:
            raise ApiError(
                f"No such File object: {answerable(reference[:80])}", param=name, code="not_found"
            )
    else:
        try:
            content = base64.b64decode(reference.partition(",")[2], validate=True)
        except (binascii.Error, ValueError):
            raise bad_value(name, reference, "a data URL whose rest is base64") from None
    if len(content) > MAX_INPUT_BYTES:
        raise ApiError(
            f"Invalid value for {name!r}: {len(content):,} bytes; allowed: {MAX_INPUT_BYTES:,}",
            param=name,
            code="invalid_value",
        )
    return content


def _reference(name: str, given: Any) -> str:
    allowed = 'a "file_id" of /v1/files, or an "image_url" that is a data URL'
    if isinstance(given, dict):
        values = [value for form, value in given.items() if form in _FORMS and value is not None]
        if len(values) != 1 or not set(given) <= set(_FORMS):
            raise bad_value(name, given, allowed)
        [given] = values
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        raise ApiError(
            f"Invalid value for {name!r}: this server fetches no address; upload the picture to "
            "/v1/files with the purpose 'vision', or send it as a data URL",
            param=name,
            code="invalid_value",
        )
    if not isinstance(given, str) or not (given.startswith("file-") or _DATA.match(given)):
        raise bad_value(name, given, allowed)
    return given
