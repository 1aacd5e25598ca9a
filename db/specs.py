"""An image's specification and its identity.

`pixel_key` identifies the pixels that a specification asks for, `request_key` the file. Two images
with the same `request_key` share one object.

Both keys are the SHA-256 of a canonical JSON text, so every process and database computes the same
key. Fields at their default are left out of the text. Therefore a field that is added later does
not change the keys of requests without it, and images that are stored already are found again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal

METADATA_VERSION = 2
"""The version of the layout of the data in files. It is part of `request_key`.

1: the infotext and our record. 2: also XMP that says that a machine made the picture.
"""

ImageFormat = Literal["png", "jpeg", "webp"]
MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
)
FILE_SUFFIXES: Mapping[str, str] = MappingProxyType({"png": "png", "jpeg": "jpg", "webp": "webp"})

ADDED_MODELS = frozenset({"controlnet", "ip_adapter"})
"""The fields of a specification that hold an `AddedModel`."""

INPUT_IMAGES = ("init_image", "mask", "control_image", "reference_image")
"""The fields of a specification that hold an input file's digest."""

_NOT_PIXELS = frozenset({"model", "format", "quality"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A LoRA that is added to the denoiser and text encoder: registry name, digest and weight."""

    name: str
    digest: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedModel:
    """A ControlNet or an IP-Adapter beside an image's model: its registry name and its digest."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """Everything that decides an image's pixels and the file that holds them.

    Sizes are in pixels. `seed` is in [0, 2**64). A `guidance_scale` up to 1 means no guidance.
    `sampler` is a canonical name of `db.samplers`; `sampler_options` replaces values of its
    configuration (`eta`, `sigmas`, `timestep_spacing`, `beta_schedule`, `prediction_type`, …).
    `init_image`, `mask`, `control_image` and `reference_image` are the SHA-256 (hex) of the input
    file's bytes. `controlnet` reads the control image; a pipeline with a control of its own has
    none. `ip_adapter` reads the reference image; a pipeline that edits pictures has none.
    `guidance_start` and `guidance_end` are shares of the image's denoising steps: there is guidance
    from the first to the second, and before and after it the prompt alone counts.
    `refiner_start` is the share of the schedule after which the model's refiner takes over:
    diffusers' `denoising_end` of the base and `denoising_start` of the refiner. With None the base
    draws to the end.
    `windows` is the number of the text encoder's windows that the prompts may fill with
    `long_prompts="chunk"`; it is computed when the row is planned.
    `model` is the name in the registry, for people; `weights_digest` identifies the model.
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
    control_image: str | None = None
    controlnet: AddedModel | None = None
    control_scale: float = 1.0
    reference_image: str | None = None
    ip_adapter: AddedModel | None = None
    reference_scale: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    format: ImageFormat = "png"
    quality: int | None = None

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is used: then an image takes two denoiser rows."""
        return self.guidance_scale > 1.0

    def guided_at(self, step: int, steps: int) -> bool:
        """Whether the denoising step with this index, of so many, is a guided one.

        Steps are counted as diffusers' guiders count them (`ClassifierFreeGuidance`).
        """
        start, end = int(self.guidance_start * steps), int(self.guidance_end * steps)
        return self.guided and start <= step < end

    def pixel_key(self) -> str:
        """SHA-256 (hex) of all fields that decide the pixels."""
        return sha256_of(canonical_json(canonical_document(self)))

    def request_key(self, *, metadata_version: int | None = None) -> str:
        """SHA-256 (hex) of what decides the file: pixel key, format, quality, metadata version."""
        version = METADATA_VERSION if metadata_version is None else metadata_version
        before, after = _file_text(self.format, self.quality, version)
        return sha256_of(f"{before}{self.pixel_key()}{after}")

    def request_keys(self) -> tuple[str, ...]:
        """The request key in every metadata version so far, the newest first."""
        pixel_key = self.pixel_key()
        texts = file_texts(self.format, self.quality)
        return tuple([sha256_of(f"{before}{pixel_key}{after}") for before, after in texts])

    def metadata_version_of(self, request_key: str) -> int | None:
        """The metadata version in which this is the specification's request key, if in any."""
        keys = self.request_keys()
        return METADATA_VERSION - keys.index(request_key) if request_key in keys else None

    def is_named(self, request_key: str) -> bool:
        """Whether this is the specification's request key, in any metadata version so far."""
        return request_key in self.request_keys()

    def group(self) -> dict[str, Any]:
        """The values that two images must have in common to share a forward pass."""
        group = _plain_group(self.weights_digest, self.width, self.height, self.guided)
        group["adapters"] = [asdict(adapter) for adapter in self.adapters]
        if self.windows != 1:
            group["windows"] = self.windows
        if self.controlnet is not None:
            group["controlnet"] = asdict(self.controlnet)
        if self.ip_adapter is not None:
            # The scale is a state of the denoiser's modules, so all rows of a pass have the same.
            group["ip_adapter"] = asdict(self.ip_adapter) | {"scale": self.reference_scale}
        return group

    def group_key(self) -> str:
        """SHA-256 (hex) of `group`."""
        plain = not self.adapters and self.windows == 1
        if not plain or self.controlnet is not None or self.ip_adapter is not None:
            return sha256_of(canonical_json(self.group()))
        return _plain_group_key(self.weights_digest, self.width, self.height, self.guided)

    def document(self) -> dict[str, Any]:
        """The specification as JSON values; `from_document` reads it back."""
        return _document(self, leave_out=frozenset())

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ImageSpec":
        """The specification of a document. Raises `KeyError` or `TypeError` if it is none."""
        known = {field.name for field in fields(cls)}
        unknown = set(document) - known
        if unknown:
            raise TypeError(f"unknown fields in a specification: {', '.join(sorted(unknown))}")
        values = dict(document)
        if "sampler_options" in values:
            values["sampler_options"] = tuple(sorted(values["sampler_options"].items()))
        if "adapters" in values:
            values["adapters"] = tuple(Adapter(**adapter) for adapter in values["adapters"])
        for name in ADDED_MODELS & values.keys():
            values[name] = AddedModel(**values[name])
        return cls(**values)


# Made once: `json.dumps` would make one for each of several texts an image.
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def canonical_json(document: Any) -> str:
    """A value as JSON with sorted keys, no spaces and plain UTF-8. Raises `ValueError` for NaN."""
    return _CANONICAL.encode(document)


def canonical_document(spec: ImageSpec) -> dict[str, Any]:
    """What decides a specification's pixels, as JSON values: `pixel_key` is of this document."""
    document = _document(spec, leave_out=_NOT_PIXELS)
    # 7.0 and 7 are equal but give different JSON, so the value is always a float here.
    document["guidance_scale"] = float(spec.guidance_scale)
    for adapter in document.get("adapters", []):
        del adapter["name"]  # the digest identifies the weights; names differ between teams
    for name in ADDED_MODELS & document.keys():
        document[name] = document[name]["digest"]
    return document


def file_texts(file_format: str, quality: int | None) -> tuple[tuple[str, str], ...]:
    """The canonical texts of a file in every metadata version so far, the newest first.

    Each has two parts: what stands before the pixel key, and what stands after it.
    """
    versions = range(METADATA_VERSION, 0, -1)
    return tuple([_file_text(file_format, quality, version) for version in versions])


@lru_cache(maxsize=1024)  # a job's files differ in the pixel key alone
def _file_text(file_format: str, quality: int | None, metadata_version: int) -> tuple[str, str]:
    file = {
        "pixel_key": "?",
        "format": file_format,
        "quality": quality,
        "metadata_version": metadata_version,
    }
    before, _, after = canonical_json(file).partition("?")
    return before, after


def _document(spec: ImageSpec, *, leave_out: frozenset[str]) -> dict[str, Any]:
    document: dict[str, Any] = {
        name: value
        for name, value, default in zip(_NAMES, _VALUES_OF(spec), _DEFAULTS, strict=True)
        if value != default and name not in leave_out
    }
    if "sampler_options" in document:
        document["sampler_options"] = dict(spec.sampler_options)
    if "adapters" in document:
        document["adapters"] = [asdict(adapter) for adapter in spec.adapters]
    for name in ADDED_MODELS & document.keys():
        document[name] = asdict(document[name])
    return document


def _plain_group(weights_digest: str, width: int, height: int, guided: bool) -> dict[str, Any]:
    """A group without adapters and with one window."""
    return {
        "weights_digest": weights_digest,
        "width": width,
        "height": height,
        "guided": guided,
        "adapters": [],
    }


@lru_cache(maxsize=1024)  # a job has few groups, and the key is needed for every image
def _plain_group_key(weights_digest: str, width: int, height: int, guided: bool) -> str:
    return sha256_of(canonical_json(_plain_group(weights_digest, width, height, guided)))


_NAMES = tuple(field.name for field in fields(ImageSpec))
_DEFAULTS = tuple(field.default for field in fields(ImageSpec))
_VALUES_OF = attrgetter(*_NAMES)
"""What is known of the fields, looked up once because every image needs its document."""


def sha256_of(text: str) -> str:
    """SHA-256 (hex) of a text in UTF-8."""
    # A manifest can't contain a lone surrogate (broken UTF-8 is refused). If one comes from
    # elsewhere, it must not raise an error here.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
