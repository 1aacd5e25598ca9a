"""Certifying the promise: an image's pixels do not depend on its neighbours, slot, order or tail.

Known rows are rendered alone, in every slot, beside other rows in shuffled order and beside rows
that are NaN; every time their pixels must be the same. The short form takes some ten denoiser
calls and runs when a model is first loaded at a size; the long one is `imagemill certify`.

With recorded batches the promise is another one: pixels depend on the composition and on nothing
else. One composition is rendered again, after other work, and with an image of it cancelled.
"""

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from imagemill.db.errors import RenderError
from imagemill.db.models.registry import load_registry
from imagemill.db.samplers import OWN
from imagemill.db.settings import Settings
from imagemill.db.specs import Adapter, ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Engine, Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.generic.engine import GenericEngine
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
# DDIM with so much noise takes the root of a negative number in its first step.
_NAN: Mapping[str, Any] = {
    "sampler": "ddim",
    "sampler_options": (("eta", 1e30),),
    "steps": SHORT_STEPS,
}

Promise = Literal["independence", "composition"]
_TITLES: Mapping[Promise, str] = {
    "independence": "Batch independence",
    "composition": "Dependence on the recorded composition alone",
}

HOW_TO_KEEP_BITS = "IMAGEMILL_BATCHES=recorded keeps every picture reproducible here"
"""What to do where pixels depend on the batch, in a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One way of rendering the known rows: how many images were compared, how many differed."""

    name: str
    compared: int
    different: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether the promise holds in an environment (its fingerprint), and what was tried.

    `promise` says which: that pixels are independent of the batch, or, with recorded batches,
    that they depend on its composition alone.
    """

    environment: str
    promise: Promise
    holds: bool
    checks: tuple[Check, ...]
    slots: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}


def certify(
    engine: Engine, group: Mapping[str, Any], *, model_name: str, rows: int = 1, rounds: int = 1
) -> Verdict:
    """Try an idle engine of `group` with `rows` known rows and `rounds` shuffles of neighbours.

    The short form is one row and one round. An error of the engine is raised. A generic pipeline
    is tried with its own sampler, and without NaN, which one of its rows can't be given.
    """
    started = time.perf_counter()
    steps = SHORT_STEPS if rows == 1 else LONG_STEPS
    generic = isinstance(engine, GenericEngine)
    samplers = (OWN.name,) if generic else _SAMPLERS
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
    return Verdict(
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
) -> list[tuple[str, Verdict]]:
    """Load a registered model and certify it, with guidance (if it knows that) and without."""
    prepare_process(settings)
    model = load_model(load_registry(settings).find(name), settings=settings)
    width, height = size or model.facts.default_size
    found = []
    for guided in (True, False) if model.facts.guided else (False,):
        group = {
            "weights_digest": model.weights_digest,
            "width": width,
            "height": height,
            "guided": guided,
            "adapters": [],
        }
        engine = open_engine(model, group, settings, slots)
        verdict = certify(engine, group, model_name=name, rows=rows, rounds=rounds)
        title = f"{name}, {width}x{height}, {'with' if guided else 'without'} guidance"
        found.append((title, verdict))
    return found


def known_rows(
    group: Mapping[str, Any], *, model_name: str, count: int, steps: int
) -> list[ImageSpec]:
    """Specifications of a group that differ in everything that may differ within it."""
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
        )
        for number in range(count)
    ]


def _same_alone(
    engine: Engine, known: Sequence[ImageSpec], *, rounds: int, samplers: Sequence[str]
) -> tuple[Check, ...]:
    """The known rows in any company, against each alone."""
    expected = [_digest(_render(engine, [row])[0]) for row in known]
    checks: tuple[Check, ...] = (
        _every_slot(engine, known, expected),
        _shuffled(engine, known, expected, rounds=rounds, samplers=samplers),
    )
    if not isinstance(engine, GenericEngine):
        checks += (_nan_neighbours(engine, known, expected),)
    return checks


def _same_composition(
    engine: Engine, known: Sequence[ImageSpec], *, rounds: int, samplers: Sequence[str]
) -> tuple[Check, ...]:
    """One micro-batch again, after another one, and with its last image cancelled on the way."""
    others = _others(known, samplers, count=engine.slots)
    if not isinstance(engine, GenericEngine):
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
        Check(name="same composition", compared=compared, different=again),
        Check(name="after another one", compared=compared, different=after),
        Check(name="beside a cancelled image", compared=compared - rounds, different=beside),
    )


def _every_slot(engine: Engine, known: Sequence[ImageSpec], expected: Sequence[str]) -> Check:
    """Each known row in all slots at once."""
    compared = different = 0
    for row, digest in zip(known, expected, strict=True):
        results = _render(engine, [row] * engine.slots)
        compared += len(results)
        different += sum(_digest(result) != digest for result in results)
    return Check(name="every slot", compared=compared, different=different)


def _shuffled(
    engine: Engine,
    known: Sequence[ImageSpec],
    expected: Sequence[str],
    *,
    rounds: int,
    samplers: Sequence[str],
) -> Check:
    """The known rows among others, in a new order each round, as slots come free."""
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
    return Check(name="shuffled neighbours", compared=compared, different=different)


def _others(known: Sequence[ImageSpec], samplers: Sequence[str], *, count: int) -> list[ImageSpec]:
    """Rows to be rendered beside the known ones."""
    return [
        replace(
            known[number % len(known)],
            seed=5000 + number,
            # Some text encoders are given no more tokens than the longest prompt has.
            prompt=_PROMPTS[(number + 1) % len(_PROMPTS)],
            sampler=samplers[number % len(samplers)],
        )
        for number in range(count)
    ]


def _nan_neighbours(engine: Engine, known: Sequence[ImageSpec], expected: Sequence[str]) -> Check:
    """Each known row in the last slot, every other slot NaN."""
    different = 0
    for row, digest in zip(known, expected, strict=True):
        poison = replace(row, **_NAN)
        results = _render(engine, [*[poison] * (engine.slots - 1), row])
        if any(result.outcome is not Outcome.NAN for result in results[:-1]):
            raise RenderError("the rows that should be NaN are not: nothing was tried")
        different += _digest(results[-1]) != digest
    return Check(name="NaN neighbours", compared=len(known), different=different)


def _render(
    engine: Engine, specs: Sequence[ImageSpec], *, cancelled: int | None = None
) -> list[Rendered]:
    """The results of these, but for the one that is `cancelled` after the first step."""
    waiting = list(enumerate(specs))
    found: dict[int, Rendered] = {}
    try:
        while waiting or engine.busy:
            room = engine.room()
            if waiting and room:
                engine.admit(waiting[:room])
                del waiting[:room]
            for result in engine.step():
                if isinstance(result, Failed):
                    raise result.error
                found[result.ticket] = result
            if cancelled is not None:
                engine.cancel([cancelled])
    finally:
        # The engine goes on to work after a failed trial.
        engine.abandon()
    return [found[ticket] for ticket in range(len(specs)) if ticket != cancelled]


def _count_different(results: Sequence[Rendered], expected: Sequence[str]) -> int:
    pairs = zip(results, expected, strict=True)
    return sum(_digest(result) != digest for result, digest in pairs)


def _digest(result: Rendered) -> str:
    return hashlib.sha256(result.pixels.tobytes()).hexdigest()


def report(verdicts: Iterable[tuple[str, Verdict]]) -> str:
    """Verdicts by title, as Markdown."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for title, verdict in verdicts:
        word = "holds" if verdict.holds else "**does not hold**"
        by_name[title].append(
            f"{_TITLES[verdict.promise]} {word} in environment `{verdict.environment[:16]}…`, B = "
            f"{verdict.slots}, {verdict.seconds:.1f} s."
        )
        if not verdict.holds and verdict.promise == "independence":
            by_name[title] += ["", f"{HOW_TO_KEEP_BITS}."]
        by_name[title] += ["", "| check | images | different |", "| --- | --- | --- |"]
        by_name[title] += [
            f"| {check.name} | {check.compared} | {check.different} |" for check in verdict.checks
        ]
    sections = ["\n".join([f"## {title}", "", *lines]) for title, lines in by_name.items()]
    return "\n\n".join(["# Certificate of batch independence", *sections]) + "\n"
