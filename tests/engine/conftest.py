"""Warm models for the tests of the engine and the oracle."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import diffusers
import pytest

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tests.oracle.registered import Shop

SLOTS = 2
SLOWLY_MADE = (
    diffusers.DPMSolverSDEScheduler,
    diffusers.KDPM2AncestralDiscreteScheduler,
    diffusers.KDPM2DiscreteScheduler,
)


@pytest.fixture(autouse=True, scope="module")
def short_first_schedules() -> Iterator[None]:
    """Let samplers be made in a millisecond.

    diffusers gives a new one of these a schedule of a thousand steps. That takes up to a quarter
    of a second, and the image's own schedule replaces it. Here the first one has ten steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        for made in SLOWLY_MADE:
            patch.setattr(made, "set_timesteps", _short_at_first(made.set_timesteps))
        yield


def _short_at_first(set_timesteps: Callable[..., None]) -> Callable[..., None]:
    @wraps(set_timesteps)
    def short(scheduler: Any, steps: int, device: Any = None, trained: int | None = None) -> None:
        # Only `__init__` says how many steps the model was trained with.
        set_timesteps(scheduler, steps if trained is None else min(steps, 10), device, trained)

    return short


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
