"""Tests batch independence: pixels must not depend on neighbours, slot, order or empty slots.

Known rows are rendered alone, in every slot, beside other rows in shuffled order, and beside rows
of NaN. Their pixels must be the same every time. A fixed batch shape alone does not guarantee
that: whether a kernel mixes rows is a property of the device, so it is tried out on the device.

The short form takes about fifteen denoiser calls and runs when a model is first loaded at a size.
The long form is `imagemill certify`.

With recorded batches the promise is different: pixels depend only on the composition. So one
composition is rendered again, then after other work, then with one of its images cancelled.

Where a group has a ControlNet or an IP-Adapter, the known rows have pictures for them. With
guidance, the known rows are also rendered without it in any step, two in the place of one.
"""

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from imagemill.db.errors import RenderError
from imagemill.db.models.registry import Registry, load_registry
from imagemill.db.samplers.names import OWN
from imagemill.db.settings import Settings
from imagemill.db.specs import Adapter, AddedModel, ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Engine, Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.fastest_precision import kind_of_processor, try_precisions
from imagemill.worker.engine.inputs import known_picture
from imagemill.worker.engine.slots.engine import SLOTS_ENGINE
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model

SHORT_STEPS = 2
LONG_STEPS = 8
_SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "unipc", "dpmpp_2m_sde")
_PROMPTS = (
    "a red circle on a blue background",
    "",
    "a photograph of two green apples on a wooden table, morning light",
    "snow",
)
# With such an eta DDIM takes the root of a negative number in its first step and gives NaN.
_NAN: Mapping[str, Any] = {
    "sampler": "ddim",
    "sampler_options": (("eta", 1e30),),
    "steps": SHORT_STEPS,
}
_NEVER_GUIDED: Mapping[str, Any] = {"guidance_start": 0.9, "guidance_end": 0.95}
"""A guidance interval that holds no step, with up to ten of them."""

Promise = Literal["independence", "composition", "nothing"]

HOW_TO_KEEP_BITS = "IMAGEMILL_BATCHES=recorded keeps every picture reproducible here"
"""The advice, in one line, for devices on which pixels depend on the batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One kind of comparison: how many images were compared, and how many were different."""

    name: str
    compared: int
    different: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Whether the promise holds in an environment, and what was tried.

    `environment` is a fingerprint. `promise` says what was promised: pixels are independent of the
    batch or, with recorded batches, they depend only on its composition. Where algorithms are free
    nothing is, and the checks say only what this process did.
    """

    environment: str
    promise: Promise
    holds: bool
    checks: tuple[Comparison, ...]
    slots: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}


def certify(
    engine: Engine, group: Mapping[str, Any], *, model_name: str, rows: int = 1, rounds: int = 1
) -> Certificate:
    """Test an idle engine of `group` with `rows` known rows and `rounds` shuffles of neighbours.

    The short form is one row and one round. Errors of the engine are raised. A generic pipeline is
    tested with its own sampler and without NaN neighbours, because nobody knows beforehand which
    other samplers suit it.
    """
    started = time.perf_counter()
    steps = SHORT_STEPS if rows == 1 else LONG_STEPS
    samplers = (OWN.name,) if _is_generic(engine) else _SAMPLERS
    known = [
        replace(
            row,
            sampler=samplers[number % len(samplers)],
            refiner_start=0.5 if engine.refined else None,
        )
        for number, row in enumerate(
            known_rows(group, model_name=model_name, count=rows, steps=steps)
        )
    ]
    promise: Promise = "independence"
    if engine.environment.document()["batches"] == "recorded":
        promise = "composition"
        checks = _same_composition(engine, known, rounds=rounds, samplers=samplers)
    else:
        checks = _same_alone(engine, known, rounds=rounds, samplers=samplers)
    if engine.environment.free:
        promise = "nothing"
    return Certificate(
        environment=engine.environment.fingerprint(),
        promise=promise,
        holds=all(check.different == 0 for check in checks),
        checks=checks,
        slots=engine.slots,
        seconds=time.perf_counter() - started,
    )


def certify_model(
    settings: Settings,
    name: str,
    *,
    size: tuple[int, int] | None,
    slots: int | None,
    rows: int,
    rounds: int,
    controlnet: str | None = None,
) -> list[tuple[str, Certificate]]:
    """Load a registered model and certify it: with guidance, if it has that, and without.

    It is also certified with the named ControlNet, and with the IP-Adapter that it names itself.
    Where a trial decides on the precision, titles say which one it is.
    """
    registry = load_registry(settings)
    added = _added_models(registry, name, controlnet)
    prepare_process(settings)
    entry = registry.find(name)
    tried = kind_of_processor(settings, entry.dtype) is not None
    precision = try_precisions(entry, settings).fastest if tried else None
    model = load_model(entry, settings=settings, precision=precision)
    width, height = size or model.facts.default_size
    found = []
    for guided in (True, False) if model.facts.guided else (False,):
        for beside, models in added.items():
            group = {
                "weights_digest": model.weights_digest,
                "width": width,
                "height": height,
                "guided": guided,
                "adapters": [],
                **models,
            }
            engine = open_engine(model, group, settings, slots)
            certificate = certify(engine, group, model_name=name, rows=rows, rounds=rounds)
            title = f"{name}, {width}x{height}, {'with' if guided else 'without'} guidance"
            in_precision = f", in {precision}" if precision is not None else ""
            found.append((f"{title}{beside}{in_precision}", certificate))
    return found


def _added_models(registry: Registry, name: str, controlnet: str | None) -> dict[str, Any]:
    """What a title says of a ControlNet or an IP-Adapter → its part of a group."""
    found: dict[str, Any] = {"": {}}
    if controlnet is not None:
        digest = registry.find_controlnet(controlnet).digest
        found[f", ControlNet {controlnet}"] = {"controlnet": {"name": controlnet, "digest": digest}}
    adapter = registry.find(name).ip_adapter
    if adapter is not None:
        digest = registry.find_ip_adapter(adapter).digest
        worn = {"name": adapter, "digest": digest, "scale": 1.0}
        found[f", IP-Adapter {adapter}"] = {"ip_adapter": worn}
    return found


def known_rows(
    group: Mapping[str, Any], *, model_name: str, count: int, steps: int
) -> list[ImageSpec]:
    """`count` specifications that differ in everything that may differ within a group."""
    return [
        ImageSpec(
            model=model_name,
            weights_digest=group["weights_digest"],
            width=group["width"],
            height=group["height"],
            adapters=tuple(Adapter(**adapter) for adapter in group["adapters"]),
            guidance_scale=2.0 + number % 7 if group["guided"] else 1.0,
            prompt=_PROMPTS[number % len(_PROMPTS)],
            windows=group.get("windows", 1),
            sampler=_SAMPLERS[number % len(_SAMPLERS)],
            steps=steps + number % 3,
            seed=1000 + number,
            # The ControlNet's scale belongs to each row, the IP-Adapter's to the group.
            control_scale=1.0 - number % 3 / 4 if "controlnet" in group else 1.0,
            **_with_pictures(group),
        )
        for number in range(count)
    ]


def _with_pictures(group: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the known rows for the group's ControlNet and IP-Adapter."""
    digest, _ = known_picture()
    fields: dict[str, Any] = {}
    if "controlnet" in group:
        fields |= {"control_image": digest, "controlnet": AddedModel(**group["controlnet"])}
    if "ip_adapter" in group:
        worn = dict(group["ip_adapter"])
        fields |= {"reference_image": digest, "reference_scale": worn.pop("scale")}
        fields["ip_adapter"] = AddedModel(**worn)
    return fields


def _is_generic(engine: Engine) -> bool:
    return engine.environment.document().get("engine") == SLOTS_ENGINE


def _same_alone(
    engine: Engine, known: Sequence[ImageSpec], *, rounds: int, samplers: Sequence[str]
) -> tuple[Comparison, ...]:
    """Compare the known rows beside others with each of them rendered alone."""
    expected = [_digest(_render(engine, [row])[0]) for row in known]
    checks: tuple[Comparison, ...] = (
        _every_slot(engine, known, expected),
        _shuffled(engine, known, expected, rounds=rounds, samplers=samplers),
    )
    if not _is_generic(engine):
        checks += (_nan_neighbours(engine, known, expected),)
        if known[0].guided:
            checks += (_sharing_places(engine, known),)
    return checks


def _same_composition(
    engine: Engine, known: Sequence[ImageSpec], *, rounds: int, samplers: Sequence[str]
) -> tuple[Comparison, ...]:
    """Render one micro-batch again, then after another one, then with its last image cancelled."""
    others = _others(known, samplers, count=engine.slots)
    if not _is_generic(engine):
        others[0] = replace(others[0], **_NAN)
    batch = [known[0], *others[: engine.slots - 1]]
    expected = [_digest(result) for result in _render(engine, batch)]
    again = after = beside = 0
    for _ in range(rounds):
        again += _count_different(_render(engine, batch), expected)
        _render(engine, others[::-1])
        after += _count_different(_render(engine, batch), expected)
        kept = _render(engine, batch, cancelled=len(batch) - 1)
        beside += _count_different(kept, expected[:-1])
    compared = rounds * len(batch)
    return (
        Comparison(name="same composition", compared=compared, different=again),
        Comparison(name="after another one", compared=compared, different=after),
        Comparison(name="beside a cancelled image", compared=compared - rounds, different=beside),
    )


def _every_slot(engine: Engine, known: Sequence[ImageSpec], expected: Sequence[str]) -> Comparison:
    """Each known row in all slots at once."""
    compared = different = 0
    for row, digest in zip(known, expected, strict=True):
        results = _render(engine, [row] * engine.slots)
        compared += len(results)
        different += sum(_digest(result) != digest for result in results)
    return Comparison(name="every slot", compared=compared, different=different)


def _sharing_places(engine: Engine, known: Sequence[ImageSpec]) -> Comparison:
    """Each known row without guidance in any step, alone and in twice as many rows as slots."""
    different = 0
    for row in known:
        outside = replace(row, **_NEVER_GUIDED)
        alone = _digest(_render(engine, [outside])[0])
        many = 2 * engine.slots
        different += _count_different(_render(engine, [outside] * many), [alone] * many)
    compared = 2 * engine.slots * len(known)
    return Comparison(name="two in a place", compared=compared, different=different)


def _shuffled(
    engine: Engine,
    known: Sequence[ImageSpec],
    expected: Sequence[str],
    *,
    rounds: int,
    samplers: Sequence[str],
) -> Comparison:
    """Render the known rows among others, in a new order each round."""
    rows = [*known, *_others(known, samplers, count=max(engine.slots, len(known)))]
    compared = different = 0
    for round_number in range(rounds):
        order = list(range(len(rows)))
        random.Random(round_number).shuffle(order)  # noqa: S311  # an order, not a secret
        results = _render(engine, [rows[place] for place in order])
        for place, result in zip(order, results, strict=True):
            if place < len(known):
                compared += 1
                different += _digest(result) != expected[place]
    return Comparison(name="shuffled neighbours", compared=compared, different=different)


def _others(known: Sequence[ImageSpec], samplers: Sequence[str], *, count: int) -> list[ImageSpec]:
    """Rows to be rendered beside the known ones."""
    return [
        replace(
            known[number % len(known)],
            seed=5000 + number,
            # Some text encoders get only as many tokens as the longest prompt has, so the others
            # need prompts of other lengths.
            prompt=_PROMPTS[(number + 1) % len(_PROMPTS)],
            sampler=samplers[number % len(samplers)],
        )
        for number in range(count)
    ]


def _nan_neighbours(
    engine: Engine, known: Sequence[ImageSpec], expected: Sequence[str]
) -> Comparison:
    """Render each known row in the last slot while every other slot is NaN."""
    different = 0
    for row, digest in zip(known, expected, strict=True):
        poison = replace(row, **_NAN)
        results = _render(engine, [*[poison] * (engine.slots - 1), row])
        if any(result.outcome is not Outcome.NAN for result in results[:-1]):
            raise RenderError("the rows that should be NaN are not: nothing was tried")
        different += _digest(results[-1]) != digest
    return Comparison(name="NaN neighbours", compared=len(known), different=different)


def _render(
    engine: Engine, specs: Sequence[ImageSpec], *, cancelled: int | None = None
) -> list[Rendered]:
    """The results of these specifications in order, without the one at the index `cancelled`.

    That one is cancelled after the first step.
    """
    waiting = list(enumerate(specs))
    found: dict[int, Rendered] = {}
    try:
        while waiting or engine.busy:
            while waiting and (room := engine.room()):
                engine.admit(waiting[:room])
                del waiting[:room]
            for result in engine.step():
                if isinstance(result, Failed):
                    raise result.error
                found[result.ticket] = result
            if cancelled is not None:
                engine.cancel([cancelled])
    finally:
        # The engine renders real images afterwards, also if this test has failed.
        engine.abandon()
    return [found[ticket] for ticket in range(len(specs)) if ticket != cancelled]


def _count_different(results: Sequence[Rendered], expected: Sequence[str]) -> int:
    pairs = zip(results, expected, strict=True)
    return sum(_digest(result) != digest for result, digest in pairs)


def _digest(result: Rendered) -> str:
    return hashlib.sha256(result.pixels.tobytes()).hexdigest()
