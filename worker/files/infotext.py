"""A1111 "infotext": a picture's parameters as a text that other tools read.

Civitai, ComfyUI's loaders and prompt readers use this format. It can't express everything: for
example, a prompt with a line that starts with `Negative prompt:` is ambiguous. The exact values
are in the record (`records`). The layout and the quoting follow AUTOMATIC1111's
`modules/processing.py` and `modules/infotext_utils.py`.
"""

import json
import re
from collections.abc import Iterator

from imagemill.db.samplers.names import BY_NAME
from imagemill.db.specs import ImageSpec

SHORT_HASH = 10
"""The number of hex digits of a SHA-256 in this format."""

NEGATIVE = "Negative prompt:"


def infotext(spec: ImageSpec, *, version: str) -> str:
    """The infotext of a picture that imagemill `version` rendered for `spec`.

    Characters that a text chunk can't hold (NUL and lone surrogates) are replaced by U+FFFD.
    """
    lines = [spec.prompt] if spec.prompt else []
    if spec.negative_prompt:
        lines.append(f"{NEGATIVE} {spec.negative_prompt}")
    found = _parameters(spec, version)
    parameters = ", ".join(f"{key}: {_quoted(_encodable(value))}" for key, value in found)
    return "\n".join((*map(_encodable, lines), parameters))


def shortened(text: str, *, units: int) -> str:
    """The infotext with its prompts cut to at most `units` UTF-16 code units in all.

    The parameters stay whole, and "…" marks the cut.
    """
    if _utf16_units(text) <= units:
        return text
    prompts, _, parameters = text.rpartition("\n")
    room = 2 * (units - _utf16_units(parameters) - len("…\n"))
    # "ignore" drops half a surrogate pair at the end.
    kept = prompts.encode("utf-16-be")[:room].decode("utf-16-be", "ignore")
    return f"{kept}…\n{parameters}"


def _parameters(spec: ImageSpec, version: str) -> Iterator[tuple[str, str]]:
    sampler = BY_NAME.get(spec.sampler)
    yield "Steps", str(spec.steps)
    yield "Sampler", sampler.display if sampler else spec.sampler
    yield "CFG scale", _number(spec.guidance_scale)
    yield "Seed", str(spec.seed)
    yield "Size", f"{spec.width}x{spec.height}"
    yield "Model hash", _short(spec.weights_digest)
    yield "Model", spec.model
    if spec.strength is not None:
        yield "Denoising strength", _number(spec.strength)
    if spec.clip_skip > 1:
        yield "Clip skip", str(spec.clip_skip)
    yield from _extras(spec)
    yield "Version", f"imagemill {version}"


def _extras(spec: ImageSpec) -> Iterator[tuple[str, str]]:
    if spec.guidance_rescale:
        yield "Guidance rescale", _number(spec.guidance_rescale)
    if spec.refiner_start is not None:
        yield "Refiner switch at", _number(spec.refiner_start)
    if spec.sampler_options:
        yield "Sampler options", json.dumps(dict(spec.sampler_options), sort_keys=True)
    if spec.init_image is not None:
        yield "Init image hash", _short(spec.init_image)
    if spec.mask is not None:
        yield "Mask hash", _short(spec.mask)
    if spec.guidance_start or spec.guidance_end != 1:
        interval = f"{_number(spec.guidance_start)} - {_number(spec.guidance_end)}"
        yield "Guidance interval", interval
    yield from _added(spec)
    if spec.adapters:
        names = (f"{adapter.name}: {_short(adapter.digest)}" for adapter in spec.adapters)
        yield "Lora hashes", ", ".join(names)
        yield "Lora weights", ", ".join(f"{a.name}: {_number(a.weight)}" for a in spec.adapters)


def _added(spec: ImageSpec) -> Iterator[tuple[str, str]]:
    """The ControlNet and the reference, which A1111 knows under other names for each extension."""
    if spec.control_image is not None:
        yield "Control image hash", _short(spec.control_image)
        yield "Control scale", _number(spec.control_scale)
    if spec.controlnet is not None:
        yield "ControlNet", f"{spec.controlnet.name}: {_short(spec.controlnet.digest)}"
    if spec.reference_image is not None:
        yield "Reference image hash", _short(spec.reference_image)
    if spec.ip_adapter is not None:
        yield "IP-Adapter", f"{spec.ip_adapter.name}: {_short(spec.ip_adapter.digest)}"
        yield "Reference scale", _number(spec.reference_scale)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:SHORT_HASH]


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _quoted(value: str) -> str:
    # A1111 quotes values with a comma, a colon or a line end. Spaces at the ends and a leading
    # quote need it too, because readers would strip them.
    plain = not any(c in value for c in ",:\n") and value == value.strip() != ""
    if plain and not value.startswith('"'):
        return value
    return json.dumps(value, ensure_ascii=False)


def _encodable(text: str) -> str:
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


def _utf16_units(text: str) -> int:
    return len(text.encode("utf-16-be")) // 2
