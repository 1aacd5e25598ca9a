"""The harness on trial: mistakes planted in a copy of the code, each of which a test must notice.

`python -m tests.chaos.mutants` plants one after the other and runs its check; exit 1 if any goes
unnoticed. A mutant whose text is not in the code any more is an error: the list must not rot.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

COPIED = ("imagemill", "db", "scheduler_jobs", "worker", "tests", "examples", "pyproject.toml")

OURS = {"imagemill", "tests"}
OUTSIDE = (
    "sqlalchemy.orm",
    "psycopg",
    "alembic.command",
    "celery.app.base",
    "kombu.transport.redis",
)
OUTSIDE += ("boto3", "botocore.session", "pydantic_settings", "PIL.Image", "numpy", "click.testing")

SHIFT = "tests/unit/worker/shifts/test_shift.py"
GROUP_RUN = "tests/unit/worker/shifts/test_group_run.py"
RECORDING = "tests/unit/worker/shifts/test_recording.py"
LEASE = "tests/unit/worker/shifts/test_lease.py"
DRAIN = "tests/unit/worker/process/test_drain.py"
DISPATCHER = "tests/unit/scheduler_jobs/test_dispatcher.py"
CLAIMS = "tests/contract/test_queries_claims.py"
SHIFTS = "tests/contract/test_queries_shifts.py"
OBJECTS = "tests/contract/test_queries_objects.py"
JOBS = "tests/contract/test_queries_jobs.py"
STORAGE = "tests/contract/test_storage.py"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mistake: `wrong` in the place of `right`, and the tests that must notice."""

    name: str
    file: str
    right: str
    wrong: str
    checks: tuple[str, ...]
    only: str = "not postgres"
    """pytest's -k: SQLite is quicker to start, and the statements are the same."""


def _mutant(
    name: str, file: str, right: str, wrong: str, *checks: str, only: str = "not postgres"
) -> Mutant:
    return Mutant(name=name, file=file, right=right, wrong=wrong, checks=checks, only=only)


MUTANTS = (
    # Fences and leases, in SQL.
    _mutant(
        "the fence does not look at the lease",
        "db/queries/images.py",
        "return and_(in_state(ImageState.LEASED), Image.shift_id == shift_id, live)",
        "return and_(in_state(ImageState.LEASED), Image.shift_id == shift_id)",
        *(CLAIMS, SHIFTS),
    ),
    _mutant(
        "the fence does not look at whose image it is",
        "db/queries/images.py",
        "return and_(in_state(ImageState.LEASED), Image.shift_id == shift_id, live)",
        "return and_(in_state(ImageState.LEASED), live)",
        *(CLAIMS, SHIFTS, OBJECTS),
    ),
    _mutant(
        "a shift whose lease is over may claim and record",
        "db/queries/images.py",
        "    return found is not None\n",
        "    return True\n",
        *(CLAIMS, OBJECTS),
    ),
    _mutant(
        "a lease that is over can be renewed",
        "db/queries/shifts.py",
        ".where(Shift.id == shift_id, Shift.ended_at.is_(None), Shift.lease_until > now())\n"
        "        .values(lease_until",
        ".where(Shift.id == shift_id, Shift.ended_at.is_(None))\n        .values(lease_until",
        SHIFTS,
    ),
    _mutant(
        "a rescuer that resets the failures",
        "db/queries/shifts.py",
        "            failures=Image.failures + charge,",
        "            failures=0,",
        SHIFTS,
    ),
    _mutant(
        "a rescuer that suspects nobody",
        "db/queries/shifts.py",
        "            suspect=True,",
        "            suspect=Image.suspect,",
        SHIFTS,
    ),
    _mutant(
        "a rescuer that takes live leases as over",
        "db/queries/shifts.py",
        "or_(literal(everything), Shift.lease_until <= now())",
        "or_(literal(everything), Shift.lease_until.is_not(None))",
        SHIFTS,
    ),
    _mutant(
        "a shift that ends without letting go",
        "db/queries/shifts.py",
        "    release(session, Image.shift_id == shift_id, shift_id=shift_id)\n    return True",
        "    return True",
        SHIFTS,
    ),
    _mutant(
        "suspects come with neighbours",
        "db/queries/claims.py",
        "take(job_id=job_id, suspect=True, limit=1)",
        "take(job_id=job_id, suspect=True, limit=limit)",
        *(CLAIMS, SHIFT),
    ),
    _mutant(
        "suspects before the other images of their job",
        "db/queries/claims.py",
        "        images = images or take(job_id=job_id, suspect=True, limit=1)",
        "        images = take(job_id=job_id, suspect=True, limit=1) or images",
        *(CLAIMS, SHIFT),
    ),
    _mutant(
        "a rescuer that charges what had not begun",
        "db/queries/shifts.py",
        ".where(held, Image.begun_at.is_not(None))",
        ".where(held)",
        SHIFTS,
    ),
    _mutant(
        "a rescuer that charges neighbours",
        "db/queries/shifts.py",
        "    charge = case((Image.suspect, 1), else_=0)",
        "    charge = 1",
        SHIFTS,
    ),
    _mutant(
        "a failure that never makes dead",
        "db/queries/claims.py",
        "Image.failures + charge >= policy.max_failures)\n    row",
        "Image.failures + charge >= 10**9)\n    row",
        CLAIMS,
    ),
    _mutant(
        "every failure counts, with neighbours too",
        "db/queries/claims.py",
        "    charge = 1 if failure.solo else 0",
        "    charge = 1",
        CLAIMS,
    ),
    # Recording, in SQL.
    _mutant(
        "a second object of a request is an error",
        "db/queries/bulk.py",
        "insert.values(values).on_conflict_do_nothing()",
        "insert.values(values)",
        OBJECTS,
    ),
    _mutant(
        "images of loading and cancelled jobs become done",
        "db/queries/objects.py",
        "exists().where(Job.id == Image.job_id, Job.state.in_(_FINISHABLE)),",
        "exists().where(Job.id == Image.job_id),",
        *(OBJECTS, JOBS),
    ),
    _mutant(
        "a job is finished while images are leased",
        "db/queries/jobs.py",
        "Tally.state.in_((ImageState.READY, ImageState.LEASED))",
        "Tally.state.in_((ImageState.READY,))",
        *(JOBS, DISPATCHER),
    ),
    _mutant(
        "folding loses what it adds up",
        "db/queries/tallies.py",
        "sums[job_id, group_id, ImageState(state)] += delta",
        "sums[job_id, group_id, ImageState(state)] = delta",
        DISPATCHER,
    ),
    # The store.
    _mutant(
        "412 is taken as created",
        "db/storage/s3.py",
        '                return "taken"',
        '                return "created"',
        STORAGE,
        only="s3",
    ),
    _mutant(
        "other bytes under a key are taken as the same",
        "db/storage/s3.py",
        'if head["ContentLength"] != len(body) or there != sha256:',
        'if head["ContentLength"] == -1:',
        STORAGE,
        only="s3",
    ),
    # The recorder.
    _mutant(
        "commit without PUT",
        "worker/shifts/recorder.py",
        "            self._put(image, key, encoded)\n",
        "",
        *(RECORDING, SHIFT),
    ),
    _mutant(
        "commit before PUT",
        "worker/shifts/recorder.py",
        "            self._put(image, key, encoded)\n",
        "            threading.Timer(0.5, self._put, [key, encoded]).start()\n",
        RECORDING,
    ),
    _mutant(
        "a refusal of the store is tried again and again",
        "worker/shifts/recorder.py",
        "if not error.retryable or self._stopping",
        "if self._stopping",
        RECORDING,
    ),
    _mutant(
        "a store that is down is not waited for",
        "worker/shifts/recorder.py",
        "if not error.retryable or self._stopping",
        "if error.retryable or self._stopping",
        *(RECORDING, SHIFT),
    ),
    _mutant(
        "a picture without a file ends shift after shift",
        "worker/shifts/recorder.py",
        "        except (RenderError, ObjectConflict) as error:",
        "        except ObjectConflict as error:",
        SHIFT,
    ),
    # The lease.
    _mutant(
        "a lease without renewal",
        "worker/shifts/lease.py",
        "if time.monotonic() - moved_at >= self._hang_seconds:",
        "if time.monotonic() >= moved_at:",
        LEASE,
    ),
    _mutant(
        "a lease renewed while the step hangs",
        "worker/shifts/lease.py",
        "if time.monotonic() - moved_at >= self._hang_seconds:",
        "if time.monotonic() < moved_at:",
        LEASE,
    ),
    _mutant(
        "after a freeze the lease seems to hold",
        "worker/shifts/lease.py",
        "        return max(0.0, self._until - time.monotonic())",
        "        return 1.0",
        LEASE,
    ),
    _mutant(
        "a hung process stays",
        "worker/shifts/lease.py",
        "            self._end_process(_EXIT_HUNG)\n",
        "            return\n",
        LEASE,
    ),
    # The shift and its runs.
    _mutant(
        "a broken pass kills the neighbours",
        "worker/shifts/group_run.py",
        "neighbours=len(images) > 1)",
        "neighbours=False)",
        GROUP_RUN,
    ),
    _mutant(
        "a suspect is rendered with others",
        "worker/shifts/group_run.py",
        "            if self._waiting[0].solo:",
        "            if self._waiting[0].id < 0:",
        GROUP_RUN,
    ),
    _mutant(
        "a suspect takes along what was rendered before it",
        "worker/shifts/group_run.py",
        "        return self._recorder.wait(seconds=0)",
        "        return True",
        GROUP_RUN,
    ),
    _mutant(
        "what comes after a suspect is begun before it is recorded",
        "worker/shifts/group_run.py",
        "                if image.solo:\n                    self._may_pend = 0\n",
        "",
        GROUP_RUN,
    ),
    _mutant(
        "more is claimed while a suspect is in work",
        "worker/shifts/group_run.py",
        "room = 0 if self._solo_in_work else self._engine.room()",
        "room = self._engine.room()",
        GROUP_RUN,
    ),
    _mutant(
        "a suspect joins what is in the engine",
        "worker/shifts/group_run.py",
        "                if not self._engine.busy and not chosen and self._all_recorded():",
        "                if not chosen and self._all_recorded():",
        GROUP_RUN,
    ),
    _mutant(
        "followers of a failed image are held on to",
        "worker/shifts/group_run.py",
        "        self._give_back(self._followers.pop(image.request_key, ()))",
        "        self._followers.pop(image.request_key, ())",
        *(GROUP_RUN, SHIFT),
    ),
    _mutant(
        "followers are held on to when a run ends",
        "worker/shifts/group_run.py",
        "[*self._rendering.values(), *self._waiting, *self._following()])",
        "[*self._rendering.values(), *self._waiting])",
        *(GROUP_RUN, SHIFT),
    ),
    _mutant(
        "followers of a stopped job's image are held on to",
        "worker/shifts/group_run.py",
        "                stopped += self._followers.pop(image.request_key, [])",
        "                self._followers.pop(image.request_key, [])",
        *(GROUP_RUN, SHIFT),
    ),
    _mutant(
        "an old order is carried out again and again",
        "worker/shifts/group_run.py",
        "        if orders is self._applied:",
        "        if orders is None:",
        GROUP_RUN,
    ),
    _mutant(
        "one request is rendered twice",
        "worker/shifts/group_run.py",
        "            if key in in_work:",
        "            if key is None:",
        SHIFT,
    ),
    _mutant(
        "an outage of the store is charged to an image",
        "worker/shifts/group_run.py",
        "self._fail(image, _charged(item.error))",
        "self._fail(image, item.error)",
        GROUP_RUN,
    ),
    _mutant(
        "an image that waits for the store is charged with its worker",
        "worker/shifts/recorder.py",
        "                    self._holdings.end_rendering(image)\n",
        "                    pass\n",
        RECORDING,
    ),
    _mutant(
        "images that were lost meanwhile are rendered",
        "worker/shifts/leased_images.py",
        "return [image for image in images if image.id in mine]",
        "return list(images)",
        GROUP_RUN,
    ),
    _mutant(
        "out of memory is the images' fault",
        "worker/shifts/group_run.py",
        "        except OutOfMemory:\n            raise\n        except ImagemillError as error:",
        "        except ImagemillError as error:",
        SHIFT,
    ),
    _mutant(
        "a drain waits for the store without end",
        "worker/shifts/stop_reason.py",
        "store_until=min(until, self.store_until))",
        "store_until=self.store_until)",
        SHIFT,
    ),
    _mutant(
        "a worker without the model uses up the job",
        "worker/shifts/shift.py",
        "_REFUSED_IMAGES = 8",
        "_REFUSED_IMAGES = 800",
        SHIFT,
    ),
    # Being told to stop.
    _mutant(
        "a second signal is ignored",
        "worker/process/drain.py",
        "        if self._told.is_set():\n            os._exit(_EXIT_FORCED)",
        "        if self._told.is_set():\n            return",
        DRAIN,
    ),
    _mutant(
        "a child outlives its parent",
        "worker/process/drain.py",
        "                os._exit(_EXIT_ORPHAN)",
        "                pass",
        DRAIN,
    ),
    # The dispatcher.
    _mutant(
        "the dispatcher rescues nobody",
        "scheduler_jobs/dispatcher.py",
        "rescued = self._database.run(lambda session: shifts.rescue(session, policy=self._policy))",
        "rescued = 0",
        DISPATCHER,
    ),
    _mutant(
        "tokens that the broker lost are not replaced",
        "scheduler_jobs/dispatcher.py",
        "                if missing > 0:",
        "                if missing > MIN_TOKENS:",
        DISPATCHER,
    ),
    _mutant(
        "the dispatcher dies with the broker",
        "scheduler_jobs/dispatcher.py",
        "        except BrokerError as error:",
        "        except KeyError as error:",
        DISPATCHER,
    ),
)


def noticed(mutant: Mutant, copy: Path) -> bool:
    """Whether its checks fail with the mistake in the copy, which is mended afterwards."""
    file = copy / mutant.file
    text = file.read_text()
    if text.count(mutant.right) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} has changed; bring the mutant up to date")
    file.write_text(text.replace(mutant.right, mutant.wrong))
    try:
        return not _passes(copy, mutant)
    finally:
        file.write_text(text)


def _passes(copy: Path, mutant: Mutant) -> bool:
    """Run its checks in a fork: what is imported from outside is imported once for all."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
            code = int(_test(copy, mutant))
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        raise SystemExit(f"{mutant.name}: its check could not run (pytest ended with {code})")
    return code == 0


def _test(copy: Path, mutant: Mutant) -> int:
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    for name in list(sys.modules):
        if name.partition(".")[0] in OURS:
            del sys.modules[name]
    os.environ["OMP_NUM_THREADS"] = "1"
    options = ["-x", "-q", "--timeout", "60", "-p", "no:cacheprovider"]
    return int(pytest.main([*options, *mutant.checks, "-k", mutant.only]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    only = parser.parse_args().only
    for name in OUTSIDE:
        import_module(name)
    survivors = []
    with tempfile.TemporaryDirectory(prefix="imagemill-mutants-") as folder:
        copy = Path(folder)
        skip = shutil.ignore_patterns("__pycache__")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, symlinks=True, ignore=skip)
            else:
                shutil.copy(source, copy / name)
        chosen = [mutant for mutant in MUTANTS if only in mutant.name]
        for mutant in chosen:
            started = time.monotonic()
            found = noticed(mutant, copy)
            if not found:
                survivors.append(mutant.name)
            verdict = "noticed" if found else "SURVIVED"
            seconds = time.monotonic() - started
            sys.stdout.write(f"{verdict:<9} {seconds:5.1f} s  {mutant.name}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
