"""Certifying the promise: an image's pixels do not depend on its neighbours, slot, order or tail.

Known rows are rendered alone, in every slot, beside other rows in shuffled order and beside rows
that are NaN; every time their pixels must be the same. The short form takes some ten denoiser
calls and runs when a model is first loaded at a size; the long one is `imagemill certify`.
"""

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from db.errors import RenderError
from db.registry import load_registry
from db.samplers import OWN
from db.settings import Settings
from db.specs import Adapter, ImageSpec
from db.states import Outcome
from worker.device import prepare_process
from worker.engine import Engine, Failed, Rendered, open_engine
from worker.engine.generic import GenericEngine
from worker.models import load_model

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One way of rendering the known rows: how many images were compared, how many differed."""

    name: str
    compared: int
    different: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether the promise holds in an environment (its fingerprint), and what was tried."""

    environment: str
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
        replace(row, sampler=samplers[number % len(samplers)])
        for number, row in enumerate(
            known_rows(group, model_name=model_name, count=rows, steps=steps)
        )
    ]
    expected = [_digest(_render(engine, [row])[0]) for row in known]
    checks: tuple[Check, ...] = (
        _every_slot(engine, known, expected),
        _shuffled(engine, known, expected, rounds=rounds, samplers=samplers),
    )
    if not generic:
        checks += (_nan_neighbours(engine, known, expected),)
    return Verdict(
        environment=engine.environment.fingerprint(),
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
    others = [
        replace(
            row,
            seed=row.seed + 5000,
            # Some text encoders are given no more tokens than the longest prompt has.
            prompt=_PROMPTS[(number + 1) % len(_PROMPTS)],
            sampler=samplers[number % len(samplers)],
        )
        for number, row in enumerate(list(known) * engine.slots)
    ]
    rows = [*known, *others[: max(engine.slots, len(known))]]
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


def _render(engine: Engine, specs: Sequence[ImageSpec]) -> list[Rendered]:
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
    finally:
        # The engine goes on to work after a failed trial.
        engine.abandon()
    return [found[ticket] for ticket in range(len(specs))]


def _digest(result: Rendered) -> str:
    return hashlib.sha256(result.pixels.tobytes()).hexdigest()


def report(verdicts: Iterable[tuple[str, Verdict]]) -> str:
    """Verdicts by title, as Markdown."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for title, verdict in verdicts:
        word = "holds" if verdict.holds else "**does not hold**"
        by_name[title].append(
            f"Batch independence {word} in environment `{verdict.environment[:16]}…`, B = "
            f"{verdict.slots}, {verdict.seconds:.1f} s."
        )
        by_name[title] += ["", "| check | images | different |", "| --- | --- | --- |"]
        by_name[title] += [
            f"| {check.name} | {check.compared} | {check.different} |" for check in verdict.checks
        ]
    sections = ["\n".join([f"## {title}", "", *lines]) for title, lines in by_name.items()]
    return "\n\n".join(["# Certificate of batch independence", *sections]) + "\n"
