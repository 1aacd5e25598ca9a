"""Tests that need a CUDA device: `pytest -m gpu` on a machine that has one.

Elsewhere they are skipped, and say so. `GPU_TESTS_DEVICE=cpu` runs what of them a CPU can do, in
the precision that it can do it in, so that they are not wrong on the day when a GPU is there.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model

DEVICE = torch.device(os.environ.get("GPU_TESTS_DEVICE", "cuda:0"))
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = DEVICE.type == "cuda" and not torch.cuda.is_available()
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if missing:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return DEVICE


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device, for what a CPU has not."""
    if device.type != "cuda":
        pytest.skip("a CPU has nothing of the kind")
    return device


@pytest.fixture(scope="session")
def settings(device: torch.device) -> Settings:
    """As a worker on a GPU has them: fp16; on a CPU that would take minutes."""
    precision = "fp16" if device.type == "cuda" else "fp32"
    return Settings.load(device=str(device), dtype=precision, threads=1)


@pytest.fixture(scope="session")
def shapes64(settings: Settings) -> Model:
    prepare_process(settings)
    return load_model(load_registry(settings).find("shapes64"), settings=settings)


@pytest.fixture(autouse=True)
def memory_is_given_back(device: torch.device) -> Iterator[None]:
    yield
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
