"""SDXL and unconditional models equal diffusers' own pipelines, and keep their rows apart."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from imagemill.db.errors import ModelError
from imagemill.db.models.registry import load_registry
from imagemill.db.samplers.names import BY_NAME
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tests.engine.families import registered
from tests.engine.pictures import Files, digest_of, scene
from tests.engine.rendering import hashes, pixels_of, render, spec_for
from tools.parity.oracle import worst_difference
from tools.small_models.guided import save_ddpm, save_sdxl

SAMPLERS = ("euler", "ddim", "dpmpp_2m_karras", "euler_a", "unipc", "heun")


def _load(folder: Path, **values: object) -> tuple[Model, Settings]:
    settings = registered(folder, **values)
    return load_model(load_registry(settings).find(folder.name), settings=settings), settings


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Settings, Path]:
    folder = save_sdxl(tmp_path_factory.mktemp("families") / "sdxl")
    return *_load(folder), folder


def _scheduler(spec: ImageSpec, model: Model) -> Any:
    sampler = BY_NAME[spec.sampler]
    scheduler_class = getattr(diffusers, sampler.diffusers_class)
    return scheduler_class.from_config(dict(model.scheduler_config), **sampler.options)


def _read(pipeline_class: Any, folder: Path) -> Any:
    pipeline = pipeline_class.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline.prepare_latents
    pipeline.prepare_latents = lambda *args, **kwargs: latents(*args, **kwargs).contiguous()
    return pipeline


_read_once = cache(_read)


def _sdxl_oracle(
    folder: Path,
    spec: ImageSpec,
    model: Model,
    picture: Any = None,
    prepare: Callable[[Any], None] | None = None,
) -> np.ndarray:
    image_to_image = picture is not None
    pipeline_class = (
        diffusers.StableDiffusionXLImg2ImgPipeline
        if image_to_image
        else diffusers.StableDiffusionXLPipeline
    )
    if prepare is None:
        pipeline = _read_once(pipeline_class, folder)
    else:
        pipeline = _read(pipeline_class, folder)
        prepare(pipeline)
    pipeline.scheduler = _scheduler(spec, model)
    arguments: dict[str, Any] = {"width": spec.width, "height": spec.height}
    if image_to_image:
        arguments = {"image": picture, "strength": spec.strength}
    return np.asarray(
        pipeline(
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt or None,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            clip_skip=spec.clip_skip - 1 or None,
            generator=torch.Generator("cpu").manual_seed(spec.seed),
            **arguments,
        ).images[0]
    )


@pytest.mark.parametrize(
    "changes",
    [{"sampler": name} for name in SAMPLERS]
    + [
        {"negative_prompt": "blue"},
        {"clip_skip": 2},
        {"guidance_scale": 1.0},
        {"width": 48, "height": 24},
    ],
    ids=str,
)
def test_sdxl_equals_diffusers(changes: dict[str, Any], sdxl: tuple[Model, Settings, Path]) -> None:
    model, settings, folder = sdxl
    values = {"width": 32, "height": 32, "steps": 4, "sampler": "euler"} | changes
    spec = spec_for(model, **values)
    expected = _sdxl_oracle(folder, spec, model)

    # One slot has the shapes of the row alone: equal bits.
    others = [spec_for(model, **(values | {"seed": seed, "steps": seed})) for seed in (2, 3)]
    for slots, rows, allowed in ((1, [spec], 0), (2, [*others, spec], 1)):
        engine = open_engine(model, spec.group(), settings, slots)
        result = render(engine, rows)[-1]
        assert worst_difference(pixels_of(result), expected) <= allowed


def test_sdxl_varies_a_picture_as_diffusers_does(sdxl: tuple[Model, Settings, Path]) -> None:
    model, settings, folder = sdxl
    file = scene((32, 32))
    spec = spec_for(
        model, width=32, height=32, sampler="ddim", init_image=digest_of(file), strength=0.6
    )
    engine = open_engine(model, spec.group(), settings, 1, inputs=Files(file))
    [result] = render(engine, [spec])
    picture = Image.open(io.BytesIO(file))
    expected = _sdxl_oracle(folder, spec, model, picture)
    assert worst_difference(pixels_of(result), expected) == 0


@pytest.mark.parametrize("vectors", [1, 3])
def test_textual_inversion_of_two_encoders_equals_diffusers(
    vectors: int, sdxl: tuple[Model, Settings, Path], tmp_path: Path
) -> None:
    folder = sdxl[2]
    torch.manual_seed(vectors)
    file = tmp_path / "blob.safetensors"
    learned = {"clip_l": torch.randn(vectors, 32) * 0.1, "clip_g": torch.randn(vectors, 48) * 0.1}
    save_file(learned, file)
    settings = registered(folder, embeddings={"<blob>": str(file)})
    model = load_model(load_registry(settings).find(folder.name), settings=settings)
    assert model.weights_digest != sdxl[0].weights_digest
    spec = spec_for(
        model, prompt="a <blob> on <blob>", width=32, height=32, steps=2, sampler="euler"
    )
    [result] = render(open_engine(model, spec.group(), settings, 1), [spec])

    def taught(pipeline: Any) -> None:
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            pipeline.load_textual_inversion(
                load_file(file)[key],
                token="<blob>",
                text_encoder=getattr(pipeline, f"text_encoder{number}"),
                tokenizer=getattr(pipeline, f"tokenizer{number}"),
            )

    expected = _sdxl_oracle(folder, spec, model, prepare=taught)
    assert worst_difference(pixels_of(result), expected) == 0
    assert worst_difference(pixels_of(result), _sdxl_oracle(folder, spec, model)) > 0


@pytest.mark.parametrize("keys", [["<blob>"], ["clip_l"]])
def test_an_embedding_for_one_encoder_does_not_suit_two(
    keys: list[str], sdxl: tuple[Model, Settings, Path], tmp_path: Path
) -> None:
    file = tmp_path / "blob.safetensors"
    save_file({key: torch.zeros(1, 32) for key in keys}, file)
    settings = registered(sdxl[2], embeddings={"<blob>": str(file)})
    with pytest.raises(ModelError, match=r"blob\.safetensors .* no clip_l and clip_g"):
        load_model(load_registry(settings).find("sdxl"), settings=settings)


@pytest.mark.parametrize("flat", [False, True], ids=["folders", "flat"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_an_unconditional_model_equals_diffusers(sampler: str, flat: bool, tmp_path: Path) -> None:
    folder = save_ddpm(tmp_path / "cats", flat=flat)
    model, settings = _load(folder, kind="unconditional")
    assert not model.facts.guided
    assert model.facts.default_size == (16, 16)
    # A guidance scale that a job's defaults bring along means nothing to it.
    spec = spec_for(model, prompt="", width=16, height=16, sampler=sampler, steps=10)
    pipeline_class = diffusers.DDPMPipeline if sampler == "ddpm" else diffusers.DDIMPipeline
    unet, scheduler = model.components["unet"], _scheduler(spec, model)
    pipeline = pipeline_class(unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    expected = np.asarray(
        pipeline(
            num_inference_steps=spec.steps,
            generator=torch.Generator("cpu").manual_seed(spec.seed),
        ).images[0]
    )

    for slots, allowed in ((1, 0), (2, 1)):
        engine = open_engine(model, spec.group(), settings, slots)
        other = replace(spec, seed=9, steps=4)
        one, result = render(engine, [other, spec])
        assert worst_difference(pixels_of(result), expected) <= allowed
        assert hashes([one]) != hashes([result])


def test_a_grey_unconditional_model_gives_rgb(tmp_path: Path) -> None:
    folder = save_ddpm(tmp_path / "digits", channels=1)
    model, settings = _load(folder, kind="unconditional")
    spec = spec_for(model, prompt="", width=16, height=16, sampler="ddpm", guidance_scale=1.0)
    [result] = render(open_engine(model, spec.group(), settings, 2), [spec])
    pixels = pixels_of(result)
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()
