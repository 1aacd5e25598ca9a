"""Histories by the thousand from a seed: every action in proportion, nothing made small."""

import gc
import random
from collections.abc import Iterator

from imagemill.db.queries.jobs import lifecycle
from tests.simulation.world import LEASE_SECONDS, MANIFESTS, Broken, World

WEIGHTS = {
    "claim": 16,
    "begin": 12,
    "complete": 8,
    "fail": 8,
    "renew": 4,
    "meddle": 2,
    "give_back": 2,
    "end": 2,
    "die": 2,
    "finish_known": 2,
    "start": 6,
    "submit": 4,
    "steer": 3,
    "retry": 4,
    "requeue": 1,
    "reject": 1,
    "rescue": 8,
    "maintain": 6,
    "wait": 10,
    "doubt": 2,
}
_OF_WORKERS = {
    *("claim", "begin", "complete", "fail", "renew", "meddle"),
    *("give_back", "end", "die", "finish_known"),
}
_WAITS = (1, 6, LEASE_SECONDS / 3, LEASE_SECONDS / 2, LEASE_SECONDS + 1)


def steps(rng: random.Random, world: World, count: int) -> Iterator[tuple[str, tuple[object, ...]]]:
    """What happens next, `count` times; each depends on what is there by then."""
    yield "submit", (rng.randrange(4), 9)
    yield "submit", (rng.randrange(4), 9)
    for step in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count):
        if step in _OF_WORKERS:
            if not world.workers:
                yield "start", ()
            yield step, (rng.randrange(4), rng.randint(1, 4))
        elif step == "start" and len(world.workers) < 4:
            yield step, ()
        elif step == "submit":
            yield step, (rng.randrange(len(MANIFESTS)), rng.randrange(4))
        elif step == "steer":
            action = rng.choice(
                [lifecycle.cancel, lifecycle.pause, lifecycle.resume, lifecycle.resume]
            )
            yield step, (rng.randrange(4), action)
        elif step in ("retry", "requeue", "reject"):
            yield step, (rng.randrange(4),)
        elif step in ("rescue", "maintain"):
            yield step, ()
        elif step == "wait":
            yield step, (rng.choice(_WAITS),)
        elif step == "doubt":
            world.again = not world.again
    yield "heal", ()


def run_history(name: str, count: int) -> tuple[int, list[str], str | None]:
    """The history of this name: how many steps it took, which, and the promise it broke."""
    world = World()
    taken: list[str] = []
    try:
        for step, arguments in steps(random.Random(name), world, count):
            taken.append(f"{step}{arguments}")
            getattr(world, step)(*arguments)
    except Broken as broken:
        return len(taken), taken, str(broken)
    except Exception as error:  # whatever it is, no step may raise
        return len(taken), taken, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return len(taken), taken, None


def collect_seldom() -> None:
    """Looking for garbage takes a quarter of a history's time, and finds next to none."""
    gc.set_threshold(100_000, 20, 20)
