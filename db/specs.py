"""An image's specification and its identity.

`pixel_key` names the pixels that a specification asks for, `request_key` the file: two images
with the same `request_key` share one object. Both are SHA-256 of a canonical JSON text, so they
are the same in every process, database and version that knows the same fields: a field at its
default is left out, and a field added later does not change the keys of requests without it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

METADATA_VERSION = 1
"""Counts the layout of what is written into files; part of `request_key`."""

ImageFormat = Literal["png", "jpeg", "webp"]
MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
)
FILE_SUFFIXES: Mapping[str, str] = MappingProxyType({"png": "png", "jpeg": "jpg", "webp": "webp"})

_NOT_PIXELS = frozenset({"model", "format", "quality"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A LoRA added to the denoiser (and text encoder), by registry name, digest and weight."""

    name: str
    digest: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """Everything that decides an image's pixels and the file that holds them.

    Sizes are in pixels, `seed` is in [0, 2**63), `guidance_scale` <= 1 means no guidance.
    `sampler` is a canonical name of `db.samplers`; `sampler_options` overrides its configuration
    (`eta`, `sigmas`, `timestep_spacing`, `beta_schedule`, `prediction_type`, …).
    `init_image` and `mask` are SHA-256 hex digests of the input file's bytes.
    `refiner_start` is the share of the schedule after which the model's refiner goes on (None: the
    base draws to the end): diffusers' `denoising_end` of the one, `denoising_start` of the other.
    `windows` counts the text encoder's windows that the prompts may fill with
    `long_prompts="chunk"`; it was settled when the row was planned.
    `model` is the registry's name for people; `weights_digest` is what counts.
    """

    model: str
    weights_digest: str
    prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    negative_prompt: str = ""
    sampler_options: tuple[tuple[str, str | float | int | bool], ...] = ()
    init_image: str | None = None
    mask: str | None = None
    strength: float | None = None
    clip_skip: int = 1
    guidance_rescale: float = 0.0
    long_prompts: Literal["truncate", "chunk"] = "truncate"
    windows: int = 1
    prompt_weighting: bool = False
    adapters: tuple[Adapter, ...] = ()
    refiner_start: float | None = None
    format: ImageFormat = "png"
    quality: int | None = None

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs: two denoiser rows an image."""
        return self.guidance_scale > 1.0

    def pixel_key(self) -> str:
        """SHA-256 (hex) of what decides the pixels."""
        return sha256_of(_canonical(self, leave_out=_NOT_PIXELS))

    def request_key(self, *, metadata_version: int = METADATA_VERSION) -> str:
        """SHA-256 (hex) of what decides the file: pixels, format, quality, metadata version."""
        file = {
            "pixel_key": self.pixel_key(),
            "format": self.format,
            "quality": self.quality,
            "metadata_version": metadata_version,
        }
        return sha256_of(canonical_json(file))

    def is_named(self, request_key: str) -> bool:
        """Whether the key is this specification's, by this or an earlier version of metadata."""
        versions = range(1, METADATA_VERSION + 1)
        return any(request_key == self.request_key(metadata_version=v) for v in versions)

    def group(self) -> dict[str, Any]:
        """What must agree for two images to share a forward pass."""
        group = _plain_group(self.weights_digest, self.width, self.height, self.guided)
        group["adapters"] = [asdict(adapter) for adapter in self.adapters]
        if self.windows != 1:
            group["windows"] = self.windows
        return group

    def group_key(self) -> str:
        """SHA-256 (hex) of `group`."""
        if self.adapters or self.windows != 1:
            return sha256_of(canonical_json(self.group()))
        return _plain_group_key(self.weights_digest, self.width, self.height, self.guided)

    def document(self) -> dict[str, Any]:
        """The specification as JSON values; `from_document` reads it back."""
        return _document(self, leave_out=frozenset())

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ImageSpec":
        """The specification that `document` described; a KeyError or TypeError if it did not."""
        known = {field.name for field in fields(cls)}
        unknown = set(document) - known
        if unknown:
            raise TypeError(f"unknown fields in a specification: {', '.join(sorted(unknown))}")
        values = dict(document)
        if "sampler_options" in values:
            values["sampler_options"] = tuple(sorted(values["sampler_options"].items()))
        if "adapters" in values:
            values["adapters"] = tuple(Adapter(**adapter) for adapter in values["adapters"])
        return cls(**values)


def canonical_json(document: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no spaces and plain UTF-8; NaN is a ValueError."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _canonical(spec: ImageSpec, *, leave_out: frozenset[str]) -> str:
    document = _document(spec, leave_out=leave_out)
    # A float with an integral value and the int print differently: one spelling for both.
    document["guidance_scale"] = float(spec.guidance_scale)
    for adapter in document.get("adapters", []):
        del adapter["name"]  # the digest names the weights; a name is the team's own
    return canonical_json(document)


def _document(spec: ImageSpec, *, leave_out: frozenset[str]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, default in _FIELDS:
        value = getattr(spec, name)
        if value == default or name in leave_out:
            continue
        if name == "sampler_options":
            value = dict(value)
        elif name == "adapters":
            value = [asdict(adapter) for adapter in value]
        document[name] = value
    return document


def _plain_group(weights_digest: str, width: int, height: int, guided: bool) -> dict[str, Any]:
    """A group without adapters, in one window."""
    return {
        "weights_digest": weights_digest,
        "width": width,
        "height": height,
        "guided": guided,
        "adapters": [],
    }


@lru_cache(maxsize=1024)  # a job has a few of them, and is asked for each image's
def _plain_group_key(weights_digest: str, width: int, height: int, guided: bool) -> str:
    return sha256_of(canonical_json(_plain_group(weights_digest, width, height, guided)))


_FIELDS = tuple((field.name, field.default) for field in fields(ImageSpec))
"""Every field's name and default, looked up once: documents are written for every image."""


def sha256_of(text: str) -> str:
    """SHA-256 (hex) of a text in UTF-8."""
    # A lone surrogate can't come from a manifest (broken UTF-8 is refused), but must not crash.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
