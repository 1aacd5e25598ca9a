"""Image-to-image and inpainting equal diffusers' own pipelines, sampler by sampler."""

import pytest

from imagemill.db.samplers.names import SAMPLERS
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from tests.engine.pictures import Files, digest_of, left_half, scene
from tests.engine.rendering import CAPTIONS, pixels_of, render, spec_for
from tests.oracle.registered import OTHER_SIGMAS
from tools.parity.oracle import Oracle, worst_difference
from tools.small_models import guided

SLOTS = 2
SMALL = {"width": 32, "height": 32}
"""Half the model's own size: what a sampler computes does not depend on it."""

FILES = Files(scene((32, 32)), left_half((32, 32)))
SCENE = digest_of(scene((32, 32)))
MASK = digest_of(left_half((32, 32)))
NAMES = [sampler.name for sampler in SAMPLERS if not sampler.flow]
Results = dict[str, tuple[ImageSpec, Rendered | Failed]]


def _rendered(
    model: Model, settings: Settings, rows: dict[str, ImageSpec], slots: int = SLOTS
) -> Results:
    specs = list(rows.values())
    engine = open_engine(model, specs[0].group(), settings, slots, inputs=FILES)
    return dict(zip(rows, zip(specs, render(engine, specs), strict=True), strict=True))


@pytest.fixture(scope="module")
def variations(shapes64: Model, settings: Settings) -> Results:
    rows = {
        name: spec_for(
            shapes64,
            sampler=name,
            steps=8,
            seed=number,
            init_image=SCENE,
            strength=(0.3, 0.6, 1.0)[number % 3],
            prompt=CAPTIONS[number % 4],
            **SMALL,
        )
        for number, name in enumerate(NAMES)
    }
    return _rendered(shapes64, settings, rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_variation_equals_diffusers(name: str, variations: Results, shapes64: Model) -> None:
    spec, result = variations[name]
    oracle = Oracle(shapes64, FILES.by_digest)

    assert worst_difference(pixels_of(result), oracle.same_shape(spec, slots=SLOTS)) == 0
    if name not in OTHER_SIGMAS:
        assert worst_difference(pixels_of(result), oracle.alone(spec)) <= 1


INPAINTED = [
    ("ddim", None),
    ("ddim", 0.5),
    ("euler_a", 0.7),
    ("dpmpp_2m", None),
    ("heun", 0.5),
    ("unipc", 0.6),
]


@pytest.mark.parametrize(("sampler", "strength"), INPAINTED)
def test_inpainting_equals_diffusers(
    sampler: str, strength: float | None, shapes64: Model, settings: Settings
) -> None:
    spec = spec_for(
        shapes64, sampler=sampler, strength=strength, init_image=SCENE, mask=MASK, steps=8, **SMALL
    )
    alone = Oracle(shapes64, FILES.by_digest).alone(spec)

    for slots, allowed in ((1, 0), (SLOTS, 1)):
        _, result = _rendered(shapes64, settings, {sampler: spec}, slots)[sampler]
        assert worst_difference(pixels_of(result), alone) <= allowed


@pytest.fixture(scope="module")
def inpainting_model(shapes64: Model) -> Model:
    return guided.inpainting(shapes64)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_an_inpainting_model_equals_diffusers(
    strength: float, inpainting_model: Model, settings: Settings
) -> None:
    spec = spec_for(
        inpainting_model, sampler="euler_a", strength=strength, init_image=SCENE, mask=MASK, **SMALL
    )
    _, result = _rendered(inpainting_model, settings, {"it": spec})["it"]
    oracle = Oracle(inpainting_model, FILES.by_digest)

    assert worst_difference(pixels_of(result), oracle.same_shape(spec, slots=SLOTS)) == 0
    assert worst_difference(pixels_of(result), oracle.alone(spec)) <= 1
