"""Commands of `imagemill` as forks of one process that has imported what all of them need.

A command takes a second of a core for its imports, and tests start hundreds; torch and diffusers
take four more, so what renders is forked from another process that has them. What such a fork does
afterwards is what the command does that a person starts; whoever looks at how a program starts,
or what it imports, starts it by its file.
"""

import atexit
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from imagemill.db.settings import Settings
from imagemill.worker.process.start_method import FORK, HEAVY_MODULE, start_method
from tests.helpers.places import ROOT

_READ_WHILE_IMPORTED = ("PYTHON", "LD_", "IMAGEMILL_METRICS_PORT", "PROMETHEUS_")
"""Beginnings of variables that mean nothing to a process whose imports are done."""

_READ_BY_TORCH = ("CUDA_", "DIFFUSERS_", "HF_", "KMP_", "MKL_", "TORCH", "TRANSFORMERS_")
"""The same, of what torch, diffusers and the libraries below them read while they are imported."""

_READ_WHEN_USED = {"HF_TOKEN"}
"""Variables with such beginnings that are read only where something is fetched."""

_SHARED = "TESTS_SHARED_FOLDER"
"""The variable with the folder of `SharedServers`."""

_OF_TESTS = ("hypothesis", "jsonschema", "openai", "openpyxl", "pandas", "torchsde")
"""What test files import beside the product, and takes a tenth of a second and more."""

_RENDERING = {"imagemill.worker", "reproduce", "roundtrip", "run", "worker"}
"""Modules and commands that import torch, or start a process that does."""


class Fork:
    """A running command, leader of a session and a process group of its own.

    It is killed when this process ends, in whatever way.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        self._ended = threading.Event()

    def poll(self) -> int | None:
        """The exit status as `Popen.poll` gives it; None while the command runs."""
        return self.status

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end; returns the exit status. Raises `subprocess.TimeoutExpired`."""
        if not self._ended.wait(seconds):
            raise subprocess.TimeoutExpired(f"process {self.pid}", seconds or 0)
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        """Send SIGKILL and wait until it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def end(self, status: int) -> None:
        """Called with what its parent, the server, was told."""
        self.status = status
        self._ended.set()


def _program(listener: int, *modules: str) -> "subprocess.Popen[str]":
    """`fork_server` as a child of this process, with these modules beside those of all commands."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.processes.fork_server", str(listener), *modules],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        pass_fds=[] if listener == -1 else [listener],
    )


class SharedServers:
    """A folder with the sockets of servers that all processes of a run of tests share.

    A server imports nothing before somebody asks for a fork, and ends with this process. The folder
    is their cache as well: what one test has found out about this machine, others need not.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="imagemill-test-run-")
        os.environ[_SHARED] = os.environ["XDG_CACHE_HOME"] = self._folder.name
        self._programs = []
        for modules in ((), (HEAVY_MODULE,)):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(_socket_of(modules))
                listener.listen()
                beside = _OF_TESTS if modules else ()
                self._programs.append(_program(listener.fileno(), *modules, *beside))

    def python(self) -> str:
        """The command line of a Python that has imported torch, and what test files import."""
        program = ROOT / "tests" / "helpers" / "processes" / "forked_python.py"
        return shlex.join([sys.executable, "-S", str(program), _socket_of((HEAVY_MODULE,))])

    def close(self) -> None:
        """End them."""
        for program in self._programs:
            program.communicate()
        self._folder.cleanup()


def shared_folder() -> Path | None:
    """The folder of this run of tests, if it has several processes."""
    return Path(os.environ[_SHARED]) if _SHARED in os.environ else None


def _socket_of(modules: Sequence[str]) -> str:
    return f"{os.environ[_SHARED]}/{'.'.join(modules) or 'light'}"


class _Server:
    """A connection with `fork_server`: one of this process, or one that all processes share."""

    def __init__(self, *modules: str) -> None:
        self._process = None
        self._orders: IO[str]
        if shared_folder() is not None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(_socket_of(modules))
            self._connection = connection
            self._orders, answers = connection.makefile("w"), connection.makefile("r")
        else:
            self._process = _program(-1, *modules)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._orders, answers = self._process.stdin, self._process.stdout
        self._lock = threading.Lock()
        self._told = threading.Condition()
        self._started: list[Fork] = []
        self._forks: dict[int, Fork] = {}
        threading.Thread(target=self._listen, args=[answers], name="forks", daemon=True).start()
        atexit.register(self.close)

    def start(self, order: Mapping[str, object]) -> Fork:
        with self._lock, self._told:
            self._orders.write(json.dumps(order) + "\n")
            self._orders.flush()
            assert self._told.wait_for(lambda: self._started, timeout=300), "no fork was started"
            return self._started.pop()

    def _listen(self, answers: IO[str]) -> None:
        for line in answers:
            told = json.loads(line)
            with self._told:
                if "started" in told:
                    fork = self._forks[told["started"]] = Fork(told["started"])
                    self._started.append(fork)
                    self._told.notify_all()
                else:
                    self._forks.pop(told["ended"]).end(told["status"])

    def close(self) -> None:
        """Leave it; what it has started for us is killed."""
        with suppress(OSError):
            self._orders.close()
        if self._process is not None:
            self._process.wait()
        else:
            self._connection.shutdown(socket.SHUT_RDWR)


@cache
def _server(*modules: str) -> _Server:
    return _Server(*modules)


def suits(environment: Mapping[str, str]) -> bool:
    """Whether a fork is what a new process with these variables would be.

    The children of a GPU's worker are no forks: they import what their parent was started with.
    """
    device = environment.get("IMAGEMILL_DEVICE", os.environ.get("IMAGEMILL_DEVICE", "auto"))
    return start_method(Settings(device=device)) == FORK and not _differs(
        environment, _READ_WHILE_IMPORTED
    )


def _differs(environment: Mapping[str, str], beginnings: tuple[str, ...]) -> bool:
    """Whether a variable with such a beginning has another value than in this process."""
    return any(
        name.startswith(beginnings) and value != os.environ.get(name)
        for name, value in environment.items()
        if name not in _READ_WHEN_USED
    )


def start(
    module: str,
    *words: str,
    environment: Mapping[str, str],
    output: Path,
    errors: Path | None = None,
    folder: str | Path = ".",
    umask: int = -1,
    stays: bool = False,
) -> Fork:
    """Start `python -m MODULE WORDS…`: one of ours, or `tests.chaos.worker`.

    `environment` are all its variables, `output` and `errors` files that it adds to; with a `umask`
    of -1 it has the server's. It is killed when this process ends, unless it `stays`.
    """
    # Whoever reads what a program prints may look before the fork has printed anything.
    for file in (output, errors or output):
        file.touch(0o600)
    renders = not _RENDERING.isdisjoint((module, *words))
    heavy = renders and not _differs(environment, _READ_BY_TORCH)
    return _server(*([HEAVY_MODULE] if heavy else [])).start(
        {
            "module": module,
            "words": words,
            "environment": dict(environment),
            "output": str(output),
            "errors": str(errors or output),
            "folder": str(Path(folder).absolute()),
            "umask": umask,
            "stays": stays,
        }
    )


def run_program(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: str | Path = ".",
    seconds: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run the file of the program `imagemill`, with `environment` beside this process's own."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "imagemill"), *words],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def run(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: str | Path = ".",
    seconds: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run `imagemill WORDS…` to its end, as `subprocess.run` does.

    `environment` are its variables beside those of this process.
    """
    if not suits(environment):
        return run_program(words, environment=environment, folder=folder, seconds=seconds)
    with tempfile.TemporaryDirectory(prefix="imagemill-said-") as scratch:
        output, errors = Path(scratch, "output"), Path(scratch, "errors")
        fork = start(
            "imagemill",
            *words,
            environment=os.environ | environment,
            output=output,
            errors=errors,
            folder=folder,
        )
        return _end_of(fork, ["imagemill", *words], output, errors, seconds)


def run_python(code: str, *words: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """Run code in a fork that has imported torch and all that renders.

    The last of `sys.argv` are `words`. Where forks do not suit, it is a Python of its own.
    """
    if not suits(os.environ):
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    with tempfile.TemporaryDirectory(prefix="imagemill-said-") as scratch:
        output, errors = Path(scratch, "output"), Path(scratch, "errors")
        fork = _server(HEAVY_MODULE).start(
            {
                "module": "-c",
                "words": [code, *words],
                "environment": dict(os.environ),
                "output": str(output),
                "errors": str(errors),
                "folder": str(Path.cwd()),
            }
        )
        return _end_of(fork, ["python", "-c", code, *words], output, errors, seconds)


def _end_of(
    fork: Fork, words: Sequence[str], output: Path, errors: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Wait for a fork, and say what it printed into these files."""
    try:
        status = fork.wait(seconds)
    except BaseException:
        fork.kill()
        raise
    return subprocess.CompletedProcess(words, status, output.read_text(), errors.read_text())
