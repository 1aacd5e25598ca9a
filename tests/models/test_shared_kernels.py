"""Compiled kernels in the store: one worker compiles, others take what it made."""

import ast
import shutil
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from imagemill.db.errors import StorageError
from imagemill.db.settings import Settings
from imagemill.db.storage import StoredObject
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.models import shared_kernels
from imagemill.worker.models.environment import Environment
from imagemill.worker.models.shared_kernels import SharedKernels
from tests.helpers.places import ROOT
from tests.helpers.processes.forks import run_python

HERE = Environment(fields=MappingProxyType({"torch": "2", "device": "here"}))
ELSEWHERE = Environment(fields=MappingProxyType({"torch": "2", "device": "elsewhere"}))


@pytest.fixture
def sharing() -> Settings:
    return Settings.load(device="cpu", compile=True, compile_cache=True)


@pytest.fixture
def store(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "objects")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What torch is given; what it gives are the bytes `kernels`."""
    given: list[bytes] = []
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"kernels", None))
    monkeypatch.setattr(
        torch.compiler, "load_cache_artifacts", lambda body: given.append(body) or object()
    )
    return given


def test_the_next_worker_takes_what_the_first_one_made(
    sharing: Settings, store: FolderStorage, taken: list[bytes]
) -> None:
    first, second = SharedKernels(sharing, store), SharedKernels(sharing, store)
    assert not first.fetch(HERE)
    assert first.share(HERE)
    assert not first.share(HERE)
    assert not second.fetch(ELSEWHERE)
    assert second.fetch(HERE)
    assert taken == [b"kernels"]
    assert not second.share(HERE)


def test_two_workers_that_compile_at_once_do_not_disturb_each_other(
    sharing: Settings, store: FolderStorage, taken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = SharedKernels(sharing, store), SharedKernels(sharing, store)
    assert first.share(HERE)
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"the same", None))
    assert not second.share(HERE)


@pytest.mark.parametrize("chosen", [{"compile_cache": False}, {"compile": False}])
def test_nothing_is_shared_unless_somebody_asks_for_it(
    sharing: Settings, store: FolderStorage, taken: list[bytes], chosen: dict[str, bool]
) -> None:
    assert not Settings.model_fields["compile_cache"].default
    SharedKernels(sharing, store).share(HERE)
    silent = SharedKernels(sharing.model_copy(update=chosen), store)
    assert not silent.fetch(HERE)
    assert not silent.share(ELSEWHERE)
    assert taken == []
    assert len(list(store.list())) == 1


def test_a_store_that_fails_or_holds_something_else_costs_only_time(
    sharing: Settings,
    store: FolderStorage,
    taken: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    SharedKernels(sharing, store).share(HERE)
    monkeypatch.setattr(shared_kernels, "MOST_BYTES", 3)
    assert not SharedKernels(sharing, store).fetch(HERE)

    class Broken(FolderStorage):
        def stat(self, key: str) -> StoredObject | None:
            raise StorageError("no answer")

        def put(self, key: str, body: bytes, *, media_type: str) -> bool:
            raise StorageError("no answer")

    broken = SharedKernels(sharing, Broken(tmp_path))
    assert not broken.fetch(HERE)
    assert not broken.share(HERE)
    assert taken == []


def test_damaged_kernels_are_not_used(sharing: Settings, store: FolderStorage) -> None:
    store.put(shared_kernels._key(HERE), b"no kernels", media_type="application/octet-stream")
    assert not SharedKernels(sharing, store).fetch(HERE)


def test_only_this_module_lets_torch_read_kernels() -> None:
    reading = [
        str(file.relative_to(ROOT))
        for package in ("db", "scheduler_jobs", "worker")
        for file in (ROOT / package).rglob("*.py")
        if "load_cache_artifacts" in (text := file.read_text("utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "load_cache_artifacts"
    ]
    assert reading == ["worker/models/shared_kernels.py"]


_WORKERS = """
import os
import sys
from pathlib import Path
from types import MappingProxyType

import torch
import torch._inductor.compile_fx
from torch._dynamo.utils import counters

from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.models.environment import Environment
from imagemill.worker.models.shared_kernels import SharedKernels


def work():
    here = Environment(fields=MappingProxyType({"torch": torch.__version__}))
    settings = Settings.load(compile=True, compile_cache=True)
    kernels = SharedKernels(settings, FolderStorage(Path(store)))
    kernels.fetch(here)
    with torch.inference_mode():
        torch.compile(lambda values: values.sin() + 1, dynamic=False)(torch.ones(64))
    kernels.share(here)
    found = counters["aot_autograd"]
    print(found["autograd_cache_hit"], found["autograd_cache_miss"], flush=True)


# To compile all headers ahead pays for more than one kernel. To try which instructions compile
# takes six programs; here the plain ones do.
torch._inductor.config.cpp_cache_precompile_headers = False
torch._inductor.config.cpp.vec_isa_ok = False
torch._inductor.config.compile_threads = 1
store, *caches = sys.argv[-3:]
for cache in caches:
    pid = os.fork()
    if pid == 0:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_real_kernels_are_found_by_a_process_with_an_empty_cache(tmp_path: Path) -> None:
    """Two processes, one after the other, which share nothing but the store and their imports."""
    caches = [str(tmp_path / f"cache-{number}") for number in (1, 2)]
    done = run_python(_WORKERS, str(tmp_path / "objects"), *caches)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0 1", "1 0"]
    assert all(Path(cache).is_dir() for cache in caches)
