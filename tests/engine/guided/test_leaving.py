"""Finished pictures leave the device while the next denoiser call is under way.

On a GPU the engine does so; here it is told to, because a CPU gains nothing by it.
"""

from dataclasses import replace

import numpy as np
import pytest

from imagemill.db.settings import Settings
from imagemill.worker.engine import Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.guided.engine import GuidedEngine
from imagemill.worker.models.model import Model
from tests.engine.rendering import pixels_of, render, small_spec_for


@pytest.fixture
def overlapping(shapes64: Model, settings: Settings) -> GuidedEngine:
    engine = open_engine(shapes64, small_spec_for(shapes64).group(), settings, 2)
    assert isinstance(engine, GuidedEngine)
    engine._overlaps = True  # as on a GPU
    return engine


def test_a_picture_comes_with_the_next_call_and_is_the_same(
    overlapping: GuidedEngine, shapes64: Model, settings: Settings
) -> None:
    specs = [small_spec_for(shapes64, seed=seed, steps=2 + seed % 3) for seed in range(5)]
    usual = open_engine(shapes64, specs[0].group(), settings, 2)
    expected = [pixels_of(result) for result in render(usual, specs)]
    found = [pixels_of(result) for result in render(overlapping, specs)]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert overlapping.steps == usual.steps, "fetching a picture costs no denoiser call"


def test_the_place_is_free_before_the_picture_has_left(
    overlapping: GuidedEngine, shapes64: Model
) -> None:
    spec = small_spec_for(shapes64, steps=1)
    overlapping.admit([(1, spec)])
    assert overlapping.step() == []
    assert overlapping.busy
    assert overlapping.room() == 2
    overlapping.admit([(2, replace(spec, seed=2, steps=3))])
    assert [result.ticket for result in overlapping.step()] == [1]
    assert overlapping.steps == 2


def test_a_picture_on_its_way_can_be_cancelled(overlapping: GuidedEngine, shapes64: Model) -> None:
    spec = small_spec_for(shapes64, steps=1)
    overlapping.admit([(1, spec), (2, replace(spec, seed=2))])
    assert overlapping.step() == []
    assert overlapping.cancel([1]) == [1]
    (result,) = overlapping.step()
    assert isinstance(result, Rendered)
    assert result.ticket == 2
    assert not overlapping.busy
    overlapping.admit([(3, spec)])
    overlapping.step()
    assert overlapping.abandon() == [3]
    assert not overlapping.busy
    assert overlapping.step() == []
