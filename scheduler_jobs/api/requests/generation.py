"""One request for pictures: its fields are checked, and become a manifest's row.

OpenAI's fields keep their meaning. Ours are the columns of a manifest. Nothing is silent: a field
is used, or named here as one that changes nothing, or refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from imagemill.scheduler_jobs.api.refusals import bad_value, missing, unknown
from imagemill.scheduler_jobs.manifest.columns.fields import KEY, PROMPT, SIZE
from imagemill.scheduler_jobs.manifest.columns.layout import field_of

MOST_IMAGES = 10
"""Pictures of one request, as OpenAI has it."""

ResponseFormat = Literal["b64_json", "url"]

_FORMATS = ("b64_json", "url")
_USERS = ("user", "safety_identifier")
"""Kept with the row as extras: who the client's own user is."""

_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "background": ("auto", "opaque"),
        "moderation": ("auto", "low"),
        "partial_images": (0,),
        "style": (),
    }
)
"""OpenAI's fields that only say what is so anyway, with the values that say it."""

_WORDS_OF_QUALITY = ("auto", "standard")

_NOT_HERE = frozenset(
    {KEY, "samples", "seeds", "batch_size", "n_iter", "sampler_index", "strength", "start_step"}
    | {"init_image", "mask", "control_image", "controlnet", "control_scale"}
    | {"reference_image", "reference_scale"}
)
"""Columns of manifests that a request has no use for: `n` counts its pictures, and nobody names
files of the server from afar."""

_BESIDE_PICTURES = frozenset({"strength", "start_step"})
"""Those of them that a request with a picture has a use for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A request that may be submitted: a manifest's row, without `id`, and how to answer."""

    row: Mapping[str, Any]
    images: int
    response_format: ResponseFormat = "b64_json"
    stream: bool = False


def read_generation(
    body: Mapping[str, Any], *, pictures: Mapping[str, str] = MappingProxyType({})
) -> Generation:
    """Check the fields of a request. Raises `ApiError` for the first that can't be used.

    `pictures` are the SHA-256 of pictures that came with it, by the columns that they fill. Whether
    their values suit the model is found out when the row is planned.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if not isinstance(given.get("prompt"), str):
        raise missing("prompt", "a text")
    images = _images(given.pop("n", 1))
    response_format = given.pop("response_format", "b64_json")
    if response_format not in _FORMATS:
        raise bad_value("response_format", response_format, "b64_json or url")
    stream = given.pop("stream", False)
    if not isinstance(stream, bool):
        raise bad_value("stream", stream, "true or false")
    if given.get("output_compression") == 100 and given.get("output_format", "png") == "png":
        del given["output_compression"]  # OpenAI's own words for a PNG
    row: dict[str, Any] = {}
    for name, value in given.items():
        column = _column(name, value, beside=bool(pictures))
        if column is not None:
            row[column] = value
    if images > 1:
        row["samples"] = images
    row |= pictures
    return Generation(
        row=row,
        images=images,
        response_format=cast(ResponseFormat, response_format),
        stream=stream,
    )


def _column(name: str, value: Any, *, beside: bool) -> str | None:
    """The row's column that a field fills; None for a field that changes nothing.

    `beside` says that there is a picture beside it.
    """
    if name in _WITHOUT_EFFECT:
        if value not in _WITHOUT_EFFECT[name]:
            allowed = " or ".join(str(each) for each in _WITHOUT_EFFECT[name]) or "nothing"
            raise bad_value(name, value, allowed)
        return None
    if name in _USERS:
        if not isinstance(value, str):
            raise bad_value(name, value, "a text")
        return name
    if name == SIZE and value == "auto":
        return None
    if name == "quality" and isinstance(value, str):
        if value not in _WORDS_OF_QUALITY:
            raise bad_value(name, value, "auto, or 1 to 100 for jpeg and webp; set steps instead")
        return None
    if name == "output_compression":
        return "quality"
    field = field_of(name)
    refused = _NOT_HERE - _BESIDE_PICTURES if beside else _NOT_HERE
    if field is None or field in refused or (field == PROMPT) != (name == PROMPT):
        raise unknown(name)
    return name


def _images(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_IMAGES:
        raise bad_value("n", value, f"a whole number from 1 to {MOST_IMAGES}")
    return value
