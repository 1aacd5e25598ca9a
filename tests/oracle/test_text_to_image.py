"""The engine equals diffusers' own pipeline, sampler by sampler.

Every sampler's row is rendered in one mixed run, with neighbours of other samplers and steps.
"""

from dataclasses import replace

import pytest

from imagemill.db.samplers.names import SAMPLERS
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from tests.engine.rendering import CAPTIONS, pixels_of, render, spec_for
from tests.oracle.registered import OTHER_SIGMAS
from tools.parity.oracle import Oracle, worst_difference

SLOTS = 2
SMALL = {"width": 32, "height": 32}
"""Half the model's own size: what a sampler computes does not depend on it."""

Results = dict[str, tuple[ImageSpec, Rendered | Failed]]

OPTIONS = {
    "ddim eta 0.7": ("ddim", {"eta": 0.7}),
    "ddim trailing": ("ddim", {"timestep_spacing": "trailing"}),
    "ddim zero terminal SNR": (
        "ddim",
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "ddpm larger variance": ("ddpm", {"variance_type": "fixed_large"}),
    "euler linear betas": ("euler", {"beta_schedule": "linear"}),
    "euler as epsilon": ("euler", {"prediction_type": "epsilon"}),
    "heun exponential": ("heun", {"sigmas": "exponential"}),
    "unipc karras": ("unipc", {"sigmas": "karras"}),
    "deis beta": ("deis", {"sigmas": "beta"}),
    "dpmpp_2m order 3": ("dpmpp_2m", {"solver_order": 3, "timestep_spacing": "linspace"}),
    "tcd gamma 0.3": ("tcd", {"eta": 0.3}),
}


@pytest.fixture(scope="module")
def flow_model(shapes64: Model) -> Model:
    """shapes64 told that it predicts flow: what it draws is noise, the arithmetic is the same."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    return replace(shapes64, scheduler_config=config)


@pytest.fixture(scope="module")
def results(shapes64: Model, flow_model: Model, settings: Settings) -> Results:
    rows: dict[str, ImageSpec] = {}
    for number, sampler in enumerate(SAMPLERS):
        rows[sampler.name] = spec_for(
            shapes64,
            sampler=sampler.name,
            steps=5 + number % 3,
            seed=number,
            prompt=CAPTIONS[number % 4],
            guidance_scale=1.5 + number % 5,
            **SMALL,
        )
    for number, (name, (sampler_name, options)) in enumerate(OPTIONS.items()):
        rows[name] = spec_for(
            shapes64,
            sampler=sampler_name,
            seed=100 + number,
            sampler_options=tuple(sorted(options.items())),
            **SMALL,
        )
    found: Results = {}
    for model in (shapes64, flow_model):
        names = [
            name
            for name, spec in rows.items()
            if spec.sampler.startswith("flow") == (model is flow_model)
        ]
        specs = [rows[name] for name in names]
        engine = open_engine(model, specs[0].group(), settings, SLOTS)
        found |= zip(names, zip(specs, render(engine, specs), strict=True), strict=True)
    return found


def _oracle(name: str, shapes64: Model, flow_model: Model) -> Oracle:
    return Oracle(flow_model if name.startswith("flow") else shapes64)


@pytest.mark.parametrize("name", [sampler.name for sampler in SAMPLERS] + list(OPTIONS))
def test_row_equals_diffusers(
    name: str, results: Results, shapes64: Model, flow_model: Model
) -> None:
    spec, result = results[name]
    oracle = _oracle(name, shapes64, flow_model)
    pixels = pixels_of(result)

    # Two black pictures would be equal too.
    assert pixels.std() > 1
    assert worst_difference(pixels, oracle.same_shape(spec, slots=SLOTS)) == 0
    if name not in OTHER_SIGMAS:
        assert worst_difference(pixels, oracle.alone(spec)) <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": "green"},
        {"guidance_rescale": 0.7},
        {"clip_skip": 2},
        {"width": 96, "height": 48},
        {"prompt": "a red circle " * 12},
        {"prompt": ""},
        {"seed": 2**64 - 1},
        {"seed": 2**64 - 1, "sampler": "dpmpp_sde"},
    ],
    ids=str,
)
def test_parameters_mean_what_diffusers_means(
    changes: dict[str, object], shapes64: Model, settings: Settings
) -> None:
    spec = spec_for(shapes64, **{"sampler": "dpmpp_2m", **SMALL, **changes})
    engine = open_engine(shapes64, spec.group(), settings, SLOTS)
    [result] = render(engine, [spec])

    assert worst_difference(pixels_of(result), Oracle(shapes64).same_shape(spec, slots=SLOTS)) == 0
    assert worst_difference(pixels_of(result), Oracle(shapes64).alone(spec)) <= 1
