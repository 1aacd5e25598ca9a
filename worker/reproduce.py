"""Rendering images again, and saying whether the pixels are the same.

The engine is opened with the shapes and threads that the image's environment recorded, so on the
same hardware and software the environment is the same and the bits must be.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from db.errors import BadPixels, ImagemillError
from db.registry import find_weights, load_registry
from db.settings import Settings
from db.specs import ImageSpec
from worker.engine import Engine, Failed, Rendered, open_engine
from worker.engine.inputs import Inputs
from worker.models import WarmModels
from worker.records import Pixels, pixels_sha256

_IDENTICAL_PSNR = math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An image to render again. `read` gets its stored pixels, for a PSNR if they differ."""

    name: str
    spec: ImageSpec
    environment: Mapping[str, Any]
    pixels_sha256: str
    read: Callable[[], Pixels]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How a sample came out.

    `psnr` is in dB against the stored picture (inf where equal), `changed` the fields of the
    environment that differ, each with (then, now). `error` is set where it could not be rendered.
    """

    name: str
    identical: bool
    psnr: float | None
    changed: Mapping[str, tuple[Any, Any]]
    error: str | None = None

    @property
    def same_environment(self) -> bool:
        """Whether the promise of equal bits holds here."""
        return not self.changed


def reproduce(
    samples: Sequence[Sample], settings: Settings, *, inputs: Inputs | None = None
) -> Iterator[Verdict]:
    """Render every sample again, those that may share forward passes together."""
    registry = load_registry(settings)
    models = WarmModels(settings)
    together: dict[tuple[str, int | None, int], list[Sample]] = {}
    for sample in samples:
        slots, threads = _shape(sample.environment, settings)
        together.setdefault((sample.spec.group_key(), slots, threads), []).append(sample)
    for (_, slots, threads), group in together.items():
        torch.set_num_threads(threads)
        spec = group[0].spec
        try:
            entry = find_weights(registry, spec.weights_digest, name=spec.model, settings=settings)
            model = models.get(entry)
            engine = open_engine(model, spec.group(), settings, slots, inputs=inputs)
        except ImagemillError as error:
            yield from (_failed(sample, error) for sample in group)
            continue
        yield from _render(engine, group)


def _shape(environment: Mapping[str, Any], settings: Settings) -> tuple[int | None, int]:
    """B and the thread count that an image was rendered with."""
    shapes = environment.get("shapes") or {}
    return shapes.get("slots", settings.slots), environment.get("threads") or settings.threads


def _render(engine: Engine, samples: Sequence[Sample]) -> Iterator[Verdict]:
    waiting = list(enumerate(samples))
    while waiting or engine.busy:
        room = engine.room()
        if waiting and room:
            engine.admit([(ticket, sample.spec) for ticket, sample in waiting[:room]])
            waiting = waiting[room:]
        for item in engine.step():
            sample = samples[item.ticket]
            if isinstance(item, Failed):
                yield _failed(sample, item.error)
            else:
                yield _compare(sample, item, engine)


def _compare(sample: Sample, rendered: Rendered, engine: Engine) -> Verdict:
    now = (rendered.environment or engine.environment).document()
    changed = _changed_fields(sample.environment, now)
    if pixels_sha256(rendered.pixels) == sample.pixels_sha256:
        return Verdict(name=sample.name, identical=True, psnr=_IDENTICAL_PSNR, changed=changed)
    try:
        psnr = peak_signal_to_noise(sample.read(), rendered.pixels)
    except ImagemillError as error:
        return Verdict(
            name=sample.name, identical=False, psnr=None, changed=changed, error=error.message
        )
    return Verdict(name=sample.name, identical=False, psnr=psnr, changed=changed)


def _failed(sample: Sample, error: ImagemillError) -> Verdict:
    return Verdict(name=sample.name, identical=False, psnr=None, changed={}, error=error.message)


def _changed_fields(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (then.get(name), now.get(name))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }


def peak_signal_to_noise(one: Pixels, other: Pixels) -> float:
    """PSNR in dB of two pictures of the same shape: 10 log10(255² / MSE), inf where equal."""
    if one.shape != other.shape:
        raise BadPixels(f"pictures of {one.shape} and {other.shape} can't be compared")
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
