"""Warm models for the tests of the engine and the oracle."""

import pytest

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tests.oracle.registered import Shop

SLOTS = 2


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load(device="cpu", dtype="fp32", threads=1)


@pytest.fixture(scope="session")
def shapes64(settings: Settings) -> Model:
    prepare_process(settings)
    return load_model(load_registry(settings).find("shapes64"), settings=settings)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Small families of their own for each module, whose engines have two slots."""
    return Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)
