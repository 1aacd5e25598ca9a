"""`python -m tests.chaos.mutants` plants one mistake after the other in a copy of the code.

Each must be noticed by the tests that it names; exit 1 if any goes unnoticed. A mutant whose text
is not in the code any more is an error: the list must not rot.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import pytest

from tests.chaos.mutants import MUTANTS, Mutant
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
OUTSIDE += ("boto3", "botocore.session", "pydantic", "PIL.Image", "numpy", "click.testing")


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
