"""A request to `/v1/images/edits`, a form or JSON: its pictures and its fields.

The picture is where a manifest's row has `init_image`; a model that changes a reference image
gets it as that. OpenAI's mask is transparent where the picture is painted over, a manifest's is
white there.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops

from imagemill.db.errors import InputImageError, ModelError
from imagemill.db.input_pictures import check_picture, open_picture, upright_size
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.api.refusals import ApiError, missing
from imagemill.scheduler_jobs.api.requests.bodies import Form
from imagemill.scheduler_jobs.api.requests.generation import Generation, read_generation
from imagemill.scheduler_jobs.api.requests.references import ContentOf, read_picture, split_body
from imagemill.scheduler_jobs.manifest.columns.fields import PROMPT
from imagemill.scheduler_jobs.manifest.columns.layout import field_of
from imagemill.scheduler_jobs.manifest.problems import BadValue
from imagemill.scheduler_jobs.manifest.values import unique_keys

_PICTURE, _MASK = "image", "mask"
_TEXTS = frozenset({PROMPT, "negative_prompt", "model"})
_USERS = frozenset({"user", "safety_identifier"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """A request whose pictures are named by the SHA-256 of their bytes, and these bytes.

    `asked` is what tells it from other requests.
    """

    generation: Generation
    asked: Mapping[str, Any]
    pictures: tuple[bytes, ...]


def read_edit(form: Form, settings: Settings) -> Edit:
    """Check a form. Raises `ApiError` for the first thing in it that can't be used."""
    fields = {name: _value(name, text) for name, text in form.fields.items()}
    given: dict[str, bytes] = {}
    for name, content in form.files:
        known = name.removesuffix("[]")
        if known not in (_PICTURE, _MASK):
            raise ApiError(
                f"Unknown parameter: {name[:80]!r}, a file",
                param=name[:200],
                code="unknown_parameter",
            )
        if known in given:
            raise ApiError(
                f"Invalid value for {known!r}: several files; allowed: one",
                param=known,
                code="invalid_value",
            )
        given[known] = content
    if _PICTURE not in given:
        raise missing(_PICTURE, "a file")
    return _checked(fields, given, settings)


def read_edit_body(body: Mapping[str, Any], settings: Settings, *, content_of: ContentOf) -> Edit:
    """Check a JSON body, whose pictures are references. Raises `ApiError`, as `read_edit` does."""
    fields, references = split_body(body)
    given = {name: read_picture(name, each, content_of) for name, each in references.items()}
    return _checked(fields, given, settings)


def count_edit(body: Mapping[str, Any]) -> Generation:
    """What a JSON body asks for, without a look at its pictures. Raises `ApiError`."""
    fields, _ = split_body(body)
    return read_generation(fields, pictures={"init_image": ""})


def _checked(fields: Mapping[str, Any], given: dict[str, bytes], settings: Settings) -> Edit:
    picture = _open(_PICTURE, given[_PICTURE], settings)
    column = "init_image"
    if _MASK in given:
        _check_mask_size(_open(_MASK, given[_MASK], settings), picture)
        given[_MASK] = _white_mask(given[_MASK], settings)
    elif _takes_reference(fields.get("model"), settings):
        column = "reference_image"
    digests = {
        {_PICTURE: column}.get(name, name): hashlib.sha256(content).hexdigest()
        for name, content in given.items()
    }
    return Edit(
        generation=read_generation(fields, pictures=digests),
        asked={"fields": fields, "pictures": digests},
        pictures=tuple(given.values()),
    )


def _value(name: str, text: str) -> Any:
    """A field's value: texts as they are, of the others what JSON says, if it says anything."""
    if name in _USERS or field_of(name) in _TEXTS:
        return text
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except BadValue as error:
        raise ApiError(
            f"Invalid value for {name[:80]!r}: {error}", param=name[:200], code="invalid_value"
        ) from None
    except (ValueError, RecursionError):
        return text


def _takes_reference(model: Any, settings: Settings) -> bool:
    """Whether a model changes a reference image; one that is not known is refused later."""
    try:
        entry = load_registry(settings).find(model or settings.default_model)
        return model_facts(entry).inputs.reference != "no"
    except ModelError:
        return False


def _check_mask_size(mask: Image.Image, picture: Image.Image) -> None:
    """Raise `ApiError` unless both have one size: which part is painted over is not guessed."""
    of_mask, of_picture = upright_size(mask), upright_size(picture)
    if of_mask != of_picture:
        raise ApiError(
            f"Invalid value for 'mask': {of_mask[0]}x{of_mask[1]}; allowed: the size of 'image', "
            f"{of_picture[0]}x{of_picture[1]}",
            param=_MASK,
            code="invalid_value",
        )


def _white_mask(content: bytes, settings: Settings) -> bytes:
    """A mask that is white where this one is transparent; one without transparency as it is."""
    picture = _open(_MASK, content, settings)
    if not picture.has_transparency_data:
        return content
    try:
        transparency = ImageChops.invert(picture.convert("RGBA").getchannel("A"))
    except (OSError, SyntaxError, ValueError) as error:
        raise _no_picture(_MASK, f"{error}; allowed: a PNG, JPEG or WebP file") from None
    buffer = io.BytesIO()
    transparency.save(buffer, "PNG")
    return buffer.getvalue()


def _open(name: str, content: bytes, settings: Settings) -> Image.Image:
    """A picture that a worker reads; it is not decoded yet."""
    try:
        check_picture(content, max_pixels=settings.max_pixels)
        return open_picture(content, max_pixels=settings.max_pixels)
    except InputImageError as error:
        raise _no_picture(name, error.message) from None


def _no_picture(name: str, found: str) -> ApiError:
    return ApiError(
        f"Invalid value for {name!r}: {found}",
        param=name,
        code="invalid_value",
    )
