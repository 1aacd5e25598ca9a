"""What this worker is willing to render: the producer's limits, enforced a second time.

A row may reach the database past every check of `submit`: from another program, an older version,
or somebody with the producer's role. A disk may also change it there. Such a row must end as a
failure of that image, with a readable reason. It must not put a worker out of memory or keep it
busy for a month, and no picture may be stored under a key that asks for another one.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagemill.db.errors import OverLimit, RowMismatch
from imagemill.db.queries.work.claims import Claimed
from imagemill.db.samplers.names import BY_NAME
from imagemill.db.seeds import SEED_LIMIT
from imagemill.db.settings import Settings
from imagemill.db.specs import ADDED_MODELS, INPUT_IMAGES, ImageSpec

_HEX = re.compile(r"[0-9a-f]{64}")
_SHAPE = TypeAdapter(ImageSpec)
_FIELDS = tuple(field.name for field in fields(ImageSpec))


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderLimits:
    """Upper bounds for one image, all inclusive. Each is the setting of the same name."""

    max_pixels: int
    max_steps: int
    max_prompt_bytes: int

    @classmethod
    def from_settings(cls, settings: Settings) -> "RenderLimits":
        """The limits of these settings."""
        return cls(
            max_pixels=settings.max_pixels,
            max_steps=settings.max_steps,
            max_prompt_bytes=settings.max_prompt_bytes,
        )

    def check_group(self, document: Mapping[str, Any]) -> None:
        """Refuse a group that no engine should be opened for: an `OverLimit` with the reason."""
        self._check_size(document.get("width"), document.get("height"))
        self._check_windows(document.get("windows", 1), self.max_prompt_bytes)
        if not isinstance(document.get("weights_digest"), str):
            raise OverLimit("the group names no weights")

    def check(self, image: Claimed, group: Mapping[str, Any]) -> None:
        """Refuse an image that must not reach the engine of this group.

        Raises `OverLimit` or `RowMismatch` with the reason. An image that passes is what its
        request key says, so its file may be stored under that key and given to all who ask for it.
        """
        if image.problem is not None:
            raise OverLimit(f"the row is no specification that this version knows: {image.problem}")
        if _HEX.fullmatch(image.request_key) is None:
            raise OverLimit("the request key is not 64 lower-case hex digits")
        self.check_spec(image.spec)
        _check_identity(image, group)

    def check_spec(self, spec: ImageSpec) -> None:
        """Refuse a specification of any origin that is over a limit: an `OverLimit` says why."""
        _check_types(spec)
        self._check_size(spec.width, spec.height)
        if not 1 <= spec.steps <= self.max_steps:
            raise _over("steps", spec.steps, self.max_steps, "IMAGEMILL_MAX_STEPS")
        longest = 0
        for name in ("prompt", "negative_prompt"):
            size = len(getattr(spec, name).encode("utf-8", "surrogatepass"))
            longest = max(longest, size)
            if size > self.max_prompt_bytes:
                where = f"bytes of {name}"
                raise _over(where, size, self.max_prompt_bytes, "IMAGEMILL_MAX_PROMPT_BYTES")
        self._check_windows(spec.windows, longest)
        if not 0 <= spec.seed < SEED_LIMIT:
            raise OverLimit(f"seed {spec.seed} is not in [0, 2**64)")
        if spec.sampler not in BY_NAME:
            raise OverLimit(f"no sampler is called {spec.sampler!r}")

    def _check_size(self, width: object, height: object) -> None:
        if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
            raise OverLimit(f"{width} x {height} is no size of a picture")
        if width * height > self.max_pixels:
            size = f"{width} x {height} pixels"
            raise _over(size, width * height, self.max_pixels, "IMAGEMILL_MAX_PIXELS")

    def _check_windows(self, windows: object, prompt_bytes: int) -> None:
        """Each window of a text encoder but the first must hold at least one byte of the prompt."""
        if not isinstance(windows, int) or not 1 <= windows <= 1 + prompt_bytes:
            raise OverLimit(f"{windows} windows for prompts of {prompt_bytes:,} bytes")


def _check_types(spec: ImageSpec) -> None:
    """Check the types: a JSON column of a database promises nothing about them."""
    try:
        # `asdict` of the whole would copy every value, which takes longer than all other checks.
        values = {name: getattr(spec, name) for name in _FIELDS}
        text = json.dumps(values, allow_nan=False, default=asdict)
    except ValueError:
        raise OverLimit("a number that is not finite") from None
    try:
        _SHAPE.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OverLimit(f"{where}: {first['msg']}") from None
    digests = {name: getattr(spec, name) for name in INPUT_IMAGES}
    added = {name: getattr(spec, name) for name in ADDED_MODELS}
    digests |= {name: model.digest for name, model in added.items() if model is not None}
    digests |= {f"adapter {n}": adapter.digest for n, adapter in enumerate(spec.adapters)}
    for where, digest in digests.items():
        if digest is not None and _HEX.fullmatch(digest) is None:
            raise OverLimit(f"{where}: not the SHA-256 of a file")


def _check_identity(image: Claimed, group: Mapping[str, Any]) -> None:
    """Check that a row's columns, its request key and its group all ask for the same."""
    if not image.spec.is_named(image.request_key):
        raise RowMismatch(
            f"the request key {image.request_key[:10]}… is not that of the row's specification: "
            "the row, its group or its model was changed after it was submitted"
        )
    own = image.spec.group()
    if own != dict(group):
        names = sorted(name for name in {*own, *group} if own.get(name) != group.get(name))
        raise RowMismatch(f"the row is not of its group: {', '.join(names)} differ")


def _over(what: str, found: int, most: int, setting: str) -> OverLimit:
    return OverLimit(f"{what}: {found:,} where this worker allows 1 to {most:,} ({setting})")
