"""One warm model for the tests of the engine and the oracle."""

import pytest

from db.registry import load_registry
from db.settings import Settings
from worker.device import prepare_process
from worker.models import Model, load_model


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load(device="cpu", dtype="fp32", threads=1)


@pytest.fixture(scope="session")
def shapes64(settings: Settings) -> Model:
    prepare_process(settings)
    return load_model(load_registry(settings).find("shapes64"), settings=settings)
