"""Named places in the code where a process may end itself with SIGKILL.

The production code knows nothing of them: in a chaos process, and only there, the function at
the place is wrapped. `before` and `after` are of the call; "uncommitted" ones are inside of a
transaction, whose effects must vanish, "committed" ones right after it, whose must not.
"""

import functools
import importlib
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tests.chaos.history import History

Role = Literal["worker", "renderer", "producer", "dispatcher", "reference"]
"""A renderer is a worker with the real engine; see `tests.chaos.roles` for each."""


@dataclass(frozen=True, kw_only=True)
class CrashPoint:
    """`target` is `module:attribute.path`."""

    role: Role
    name: str
    target: str
    when: Literal["before", "after"] = "after"


def _points(role: Role, **targets: str) -> tuple[CrashPoint, ...]:
    points = []
    for name, target in targets.items():
        when: Literal["before", "after"] = "before" if target.startswith("<") else "after"
        points.append(CrashPoint(role=role, name=name, target=target.lstrip("<"), when=when))
    return tuple(points)


POINTS = (
    *_points(
        "worker",
        claim_uncommitted="imagemill.db.queries.work.claims:claim",
        claim_committed="imagemill.worker.shifts.leased_images:LeasedImages.claim",
        begin_committed="imagemill.worker.shifts.leased_images:LeasedImages.begin",
        file_not_stored="<imagemill.worker.shifts.recorder:Recorder._put",
        file_stored="imagemill.worker.shifts.recorder:Recorder._put",
        done_uncommitted="imagemill.db.queries.pictures.objects:complete",
        done_committed="imagemill.worker.shifts.leased_images:LeasedImages.complete",
        failure_uncommitted="imagemill.db.queries.work.claims:fail",
        failure_committed="imagemill.worker.shifts.leased_images:LeasedImages.fail",
        renewal_uncommitted="imagemill.db.queries.work.shifts:renew",
        give_back_uncommitted="imagemill.db.queries.work.claims:give_back",
        end_committed="imagemill.worker.shifts.leased_shift:_give_back",
    ),
    *_points(
        "producer",
        job_uncommitted="imagemill.db.queries.jobs.lifecycle:find_or_create",
        chunk_uncommitted="imagemill.db.queries.jobs.job_rows:insert_images",
        chunk_committed="imagemill.scheduler_jobs.submit.loader:JobLoader.add",
        open_uncommitted="imagemill.db.queries.jobs.lifecycle:open_job",
        open_committed="<imagemill.scheduler_jobs.submit.submission:_wake",
    ),
    *_points(
        "dispatcher",
        rescue_uncommitted="imagemill.db.queries.work.shifts:rescue",
        finish_uncommitted="imagemill.db.queries.jobs.lifecycle:finish_jobs",
        fold_uncommitted="imagemill.db.queries.tallies:fold",
        before_publishing="<imagemill.db.broker.wake_ups:Tokens.publish",
    ),
)


def install(role: Role, *, chance: float, history: History) -> None:
    """From now on, each passing of a point of this role ends the process with this chance."""
    if not chance:
        return
    dice = random.Random(os.getpid() ^ random.getrandbits(32))
    of = "worker" if role == "renderer" else role

    def maybe_crash(point: CrashPoint) -> None:
        if dice.random() < chance:
            history.add("crash", role=role, point=point.name)
            os.kill(os.getpid(), signal.SIGKILL)

    for point in POINTS:
        if point.role == of:
            _wrap(point, maybe_crash)


def _wrap(point: CrashPoint, maybe_crash: Callable[[CrashPoint], None]) -> None:
    module, _, path = point.target.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*args: Any, **values: Any) -> Any:
        if point.when == "before":
            maybe_crash(point)
        result = function(*args, **values)
        if point.when == "after":
            maybe_crash(point)
        return result

    setattr(owner, name, wrapped)
