"""Renders images again and compares the pixels.

The engine is opened with the shapes, threads, kind of batches and of algorithms that the image's
environment names, and in its precision unless the settings name one. So on the same hardware and
software the environment is the same, and the bits must be the same too, unless algorithms were
free. An image of a recorded batch is rendered together with all images of that batch, each in its
own slot.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from imagemill.db.compositions import Composition
from imagemill.db.errors import BadPixels, ImagemillError, RenderError, UnknownImage
from imagemill.db.models.components import find_weights
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.pictures.originals import Member
from imagemill.db.settings import Batches, Settings, Workspace
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Engine, Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.inputs import Inputs
from imagemill.worker.files.records import Pixels, pixels_sha256
from imagemill.worker.models.device import DTYPES, Precision, prepare_process, resolve_device
from imagemill.worker.models.loader import WarmModels

_IDENTICAL_PSNR = math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An image to render again.

    `read` returns its stored pixels; they are needed for the PSNR if the new ones differ.
    `certified` is the result of its environment's certificate, None if it is not known.
    `together` has all members of its recorded micro-batch by slot, itself included. It is empty if
    there was no such batch or its members are not known.
    """

    name: str
    spec: ImageSpec
    environment: Mapping[str, Any]
    pixels_sha256: str
    read: Callable[[], Pixels]
    certified: bool | None = None
    together: tuple[Member, ...] = ()

    @property
    def batches(self) -> Batches:
        """The kind of batches that the image's environment names."""
        recorded = self.environment.get("batches") == "recorded"
        return "recorded" if recorded else "continuous"

    @property
    def free(self) -> bool:
        """Whether the image was rendered with `reproducible = false`."""
        return self.environment.get("reproducible") is False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """The result for one sample.

    `psnr` is in dB against the stored picture, inf if they are equal. `changed` has the fields of
    the environment that differ, each as (then, now). `error` is set if the sample could not be
    rendered. `alone` says that it once had neighbours that are not known here, so its pixels may
    differ. `certified` is copied from the sample. `free` says that it was rendered with
    `reproducible = false`.
    """

    name: str
    identical: bool
    psnr: float | None
    changed: Mapping[str, tuple[Any, Any]]
    error: str | None = None
    alone: bool = False
    certified: bool | None = None
    free: bool = False

    @property
    def same_environment(self) -> bool:
        """Whether the image was rendered in the same environment as now."""
        return not self.changed

    @property
    def broken(self) -> bool:
        """Whether equal bits were promised and not found, or the image could not be rendered."""
        promised = self.same_environment and not self.alone and not self.free
        return not self.identical and (promised or self.error is not None)


def reproduce(
    samples: Sequence[Sample], settings: Settings, *, inputs: Inputs | None = None
) -> Iterator[Reproduction]:
    """Render every sample again. Samples that can share forward passes are rendered together."""
    registry = load_registry(settings)
    models = WarmModels(settings)
    alike: dict[tuple[str, int | None, Precision | None, Settings], list[Sample]] = {}
    for sample in samples:
        slots = _shapes(sample).get("slots", settings.slots)
        precision = _precision_then(sample, settings)
        key = (sample.spec.group_key(), slots, precision, _as_then(sample, settings))
        alike.setdefault(key, []).append(sample)
    for (_, slots, precision, then), group in alike.items():
        prepare_process(then)
        spec = group[0].spec
        try:
            entry = find_weights(registry, spec.weights_digest, name=spec.model)
            model = models.get(entry, precision)
            engine = open_engine(model, spec.group(), then, slots, inputs=inputs)
        except ImagemillError as error:
            yield from (_failed(sample, error) for sample in group)
            continue
        if then.batches == "recorded":
            yield from _render_batches(engine, group)
        else:
            yield from _render(engine, group)


def _shapes(sample: Sample) -> Mapping[str, Any]:
    return sample.environment.get("shapes") or {}


def _as_then(sample: Sample, settings: Settings) -> Settings:
    """The settings with the threads, batches and algorithms of an image's environment."""
    then: dict[str, Any] = {
        "threads": sample.environment.get("threads") or settings.threads,
        "batches": sample.batches,
        "reproducible": not sample.free,
    }
    flags = sample.environment.get("flags")
    workspace = flags.get("cublas_workspace") if isinstance(flags, Mapping) else None
    if workspace in get_args(Workspace):
        then["cublas_workspace"] = workspace
    return settings.model_copy(update=then)


def _precision_then(sample: Sample, settings: Settings) -> Precision | None:
    """The precision of an image's environment; None if the settings or another device decide.

    fp16 is for GPUs: on a CPU a foreign file could ask for twenty times the work with it.
    """
    device = resolve_device(settings).type
    if settings.dtype not in ("auto", "fastest") or sample.environment.get("device") != device:
        return None
    usual = [each for each in DTYPES if device != "cpu" or each != "fp16"]
    return next((each for each in usual if each == sample.environment.get("dtype")), None)


def _render(engine: Engine, samples: Sequence[Sample]) -> Iterator[Reproduction]:
    waiting = list(enumerate(samples))
    while waiting or engine.busy:
        room = engine.room()
        if waiting and room:
            engine.admit([(ticket, sample.spec) for ticket, sample in waiting[:room]])
            waiting = waiting[room:]
        for item in engine.step():
            yield _reproduction(samples[item.ticket], item, engine)


def _render_batches(engine: Engine, samples: Sequence[Sample]) -> Iterator[Reproduction]:
    """Render each recorded micro-batch once, for all samples that belong to it."""
    by_batch: dict[tuple[Member, ...], list[Sample]] = {}
    for sample in samples:
        alone = (Member(image_id=0, spec=sample.spec),)
        by_batch.setdefault(sample.together or alone, []).append(sample)
    for batch, wanted in by_batch.items():
        try:
            results = _render_together(engine, batch)
        except ImagemillError as error:
            yield from (_failed(sample, error) for sample in wanted)
            continue
        for sample in wanted:
            item = results.get(sample.spec.request_key())
            if item is None:
                yield _failed(sample, UnknownImage("its row now asks for another picture"))
            else:
                yield _reproduction(sample, item, engine)


def _render_together(engine: Engine, batch: Sequence[Member]) -> dict[str, Rendered | Failed]:
    """The results of a micro-batch, by request key.

    Raises `UnknownImage` or `RenderError` if the same batch can't be put together any more.
    """
    images = []
    for slot, member in enumerate(batch):
        if member.spec is None:
            raise UnknownImage(
                f"image {member.image_id}, which shared its batch, is not in the database any more"
            )
        images.append((slot, member.spec))
    results: list[Rendered | Failed] = []
    try:
        engine.admit(images)
        while engine.busy:
            results += engine.step()
    finally:
        # The next micro-batch needs an empty engine, also if this one has failed.
        engine.abandon()
    together = Composition.of(images, slots=engine.slots)
    for item in results:
        if isinstance(item, Rendered) and item.composition != together:
            missing = next(other.error for other in results if isinstance(other, Failed))
            raise RenderError(f"an image of its batch can't be rendered any more: {missing}")
    return {together.request_keys[item.ticket]: item for item in results}


def _reproduction(sample: Sample, item: Rendered | Failed, engine: Engine) -> Reproduction:
    if isinstance(item, Failed):
        return _failed(sample, item.error)
    return _compare(sample, item, engine)


def _compare(sample: Sample, rendered: Rendered, engine: Engine) -> Reproduction:
    now = (rendered.environment or engine.environment).document()
    changed = _changed_fields(sample.environment, now)
    alone = sample.batches == "recorded" and not sample.together
    identical = pixels_sha256(rendered.pixels) == sample.pixels_sha256
    psnr: float | None = _IDENTICAL_PSNR
    error = None
    if not identical:
        try:
            psnr = peak_signal_to_noise(sample.read(), rendered.pixels)
        except ImagemillError as unreadable:
            psnr, error = None, unreadable.message
    return Reproduction(
        name=sample.name,
        identical=identical,
        psnr=psnr,
        changed=changed,
        error=error,
        alone=alone,
        certified=sample.certified,
        free=sample.free,
    )


def _failed(sample: Sample, error: ImagemillError) -> Reproduction:
    return Reproduction(
        name=sample.name, identical=False, psnr=None, changed={}, error=error.message
    )


def _changed_fields(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (then.get(name), now.get(name))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }


def peak_signal_to_noise(one: Pixels, other: Pixels) -> float:
    """PSNR in dB of two pictures of the same shape: 10 log10(255² / MSE); inf if they are equal.

    Raises `BadPixels` if the shapes differ.
    """
    if one.shape != other.shape:
        raise BadPixels(f"pictures of {one.shape} and {other.shape} can't be compared")
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
