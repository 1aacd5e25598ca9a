"""Models distilled from guidance (LCM) are told the scale instead of being guided."""

import pytest

from imagemill.db.settings import Settings
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, pixels_of, render, spec_for
from tools.parity.oracle import Oracle, worst_difference
from tools.small_models import guided


@pytest.fixture(scope="module")
def distilled(shapes64: Model) -> Model:
    return guided.distilled(shapes64)


def test_a_distilled_model_equals_diffusers(distilled: Model, settings: Settings) -> None:
    rows = [
        spec_for(distilled, sampler="lcm", steps=4, guidance_scale=scale, seed=seed)
        for scale, seed in ((1.5, 3), (8.0, 3), (8.0, 4))
    ]
    expected = [Oracle(distilled).alone(row) for row in rows]
    for slots, allowed in ((1, 0), (2, 1)):
        engine = open_engine(distilled, rows[0].group(), settings, slots)
        results = render(engine, rows)
        for result, picture in zip(results, expected, strict=True):
            assert worst_difference(pixels_of(result), picture) <= allowed
        # The scale is not ignored.
        assert len(set(hashes(results))) == 3
