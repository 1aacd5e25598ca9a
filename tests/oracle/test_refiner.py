"""SDXL's refiner: a second U-Net goes on where the base leaves off, as in diffusers' two calls."""

import io
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from imagemill.db.errors import ModelError
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.worker.engine import Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.certificate import certify
from tests.engine.pictures import Files, digest_of, scene
from tests.engine.rendering import pixels_of, render, spec_for
from tools.parity.oracle import RefinedOracle, worst_difference
from tools.small_models.guided import save_refiner, save_sdxl

SMALL: dict[str, Any] = {"width": 32, "height": 32, "steps": 5, "sampler": "euler"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refined")
    save_sdxl(folder / "base")
    save_refiner(folder / "refiner")
    (folder / "models.toml").write_text(
        """
[models.base]
source = "base"
[models.refined]
source = "base"
parts = { refiner = { source = "refiner" } }
"""
    )
    return folder


@pytest.fixture(scope="module")
def refined_settings(folder: Path) -> Settings:
    return Settings.load(models=folder / "models.toml", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def model(refined_settings: Settings) -> Model:
    return load_model(load_registry(refined_settings).find("refined"), settings=refined_settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"refiner_start": 0.8},
        {"refiner_start": 0.4, "sampler": "heun"},
        {"refiner_start": 0.5, "sampler": "euler_a"},
        {"refiner_start": 0.6, "sampler": "dpmpp_2m_karras"},
        {"refiner_start": 0.6, "sampler": "dpmpp_sde"},
        {"refiner_start": 0.01},
        {"refiner_start": 0.6, "negative_prompt": "blue"},
        {"refiner_start": 0.6, "clip_skip": 2},
        {"refiner_start": 0.6, "guidance_scale": 1.0},
        {"refiner_start": 0.6, "width": 48, "height": 24},
    ],
    ids=str,
)
def test_a_refined_row_equals_diffusers(
    changes: dict[str, Any], model: Model, refined_settings: Settings
) -> None:
    values = SMALL | changes
    spec = spec_for(model, **values)
    others = [
        spec_for(model, **(values | {"seed": 7, "steps": 3, "refiner_start": None})),
        spec_for(model, **(values | {"seed": 8, "steps": 4, "refiner_start": 0.3})),
    ]
    oracle = RefinedOracle(model)
    alone = oracle.alone(spec)
    for slots, rows in ((1, [spec]), (2, [*others, spec])):
        engine = open_engine(model, spec.group(), refined_settings, slots)
        pixels = pixels_of(render(engine, rows)[-1])
        assert worst_difference(pixels, oracle.same_shape(spec, slots=slots)) == 0
        assert worst_difference(pixels, alone) <= 1


def test_without_a_start_the_base_draws_alone(
    folder: Path, model: Model, refined_settings: Settings
) -> None:
    base = load_model(load_registry(refined_settings).find("base"), settings=refined_settings)
    assert base.weights_digest != model.weights_digest
    pictures = []
    for which, start in ((base, None), (model, None), (model, 0.6)):
        spec = spec_for(which, **SMALL, refiner_start=start)
        engine = open_engine(which, spec.group(), refined_settings, 2)
        pictures.append(pixels_of(render(engine, [spec])[0]))
    assert worst_difference(pictures[0], pictures[1]) == 0
    assert worst_difference(pictures[0], pictures[2]) > 1


def test_a_start_beyond_the_bases_part_is_the_refiners_alone(
    model: Model, refined_settings: Settings
) -> None:
    """Where diffusers' base would draw nothing, and its refiner begin too early."""
    file = scene((32, 32))
    spec = spec_for(
        model,
        **(SMALL | {"steps": 10}),
        init_image=digest_of(file),
        strength=0.2,
        refiner_start=0.5,
    )
    engine = open_engine(model, spec.group(), refined_settings, 1, inputs=Files(file))
    [result] = render(engine, [spec])
    components = dict(model.components) | {"text_encoder": None, "tokenizer": None}
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline(
        **(components | {"unet": model.refiner}),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(dict(model.scheduler_config)),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt=spec.prompt,
        image=Image.open(io.BytesIO(file)),
        strength=spec.strength,
        num_inference_steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
    )
    assert worst_difference(pixels_of(result), np.asarray(expected.images[0])) <= 1


def test_refined_images_do_not_depend_on_the_batch(
    model: Model, refined_settings: Settings
) -> None:
    group = spec_for(model, **SMALL).group()
    engine = open_engine(model, group, refined_settings, 3)
    calls: list[str] = []
    for name, unet in (("base", model.components["unet"]), ("refiner", model.refiner)):
        unet.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    verdict = certify(engine, group, model_name=model.name, rows=2, rounds=1)
    assert verdict.holds, verdict
    assert set(calls) == {"base", "refiner"}


def test_a_model_without_a_refiner_says_so(folder: Path, refined_settings: Settings) -> None:
    base = load_model(load_registry(refined_settings).find("base"), settings=refined_settings)
    spec = spec_for(base, **SMALL, refiner_start=0.6)
    [result] = render(open_engine(base, spec.group(), refined_settings, 2), [spec])
    assert isinstance(result, Failed)
    assert str(result.error) == "model base has no refiner"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('source = "alone"', "a refiner is for models of two text encoders"),
        (
            'source = "base"\nparts.refiner = { source = "base", subfolder = "unet" }',
            "the refiner reads embeddings of 80, the second text encoder makes them of 48",
        ),
    ],
)
def test_a_refiner_that_does_not_fit_is_one_line(
    table: str, said: str, folder: Path, tmp_path: Path
) -> None:
    registry = tmp_path / "models.toml"
    table = table.replace('"base"', f'"{folder / "base"}"')
    if "alone" in table:
        built_in = load_registry(Settings.load()).find("shapes64").source
        table = f'source = "{built_in}"\nparts.refiner = {{ source = "{folder / "refiner"}" }}'
    registry.write_text(f"[models.misfit]\n{table}\n")
    settings = Settings.load(models=registry, device="cpu", dtype="fp32")
    with pytest.raises(ModelError, match=said) as caught:
        load_model(load_registry(settings).find("misfit"), settings=settings)
    assert "\n" not in caught.value.message
