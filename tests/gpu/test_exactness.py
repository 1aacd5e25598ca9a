"""Pixels on the device: against diffusers, whatever is beside them, and in every tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.gpu import __main__ as gpu
from imagemill.db.errors import SettingsError
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.texts.conditions import Conditioner, texts_of
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.models.tuning import BACKENDS, Tuning, check_attention, tune
from imagemill.worker.reproducibility.certificate import certify
from tests.engine.rendering import CAPTIONS, hashes, pixels_of, render, spec_for
from tests.oracle.registered import Shop, spec_of
from tools.parity.oracle import Oracle, worst_difference
from tools.parity.pipeline_oracle import PipelineOracle
from tools.small_models.guided import narrow

SLOTS = 4
SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "unipc", "dpmpp_2m_sde")


def _bound(device: torch.device) -> int:
    """1/255. On a GPU the samplers' few scalars are computed on another device than in diffusers'
    pipeline, which may turn the last bit of an fp16 latent.
    """
    return 4 if device.type == "cuda" else 0


def _reloaded(settings: Settings, **values: Any) -> tuple[Model, Settings]:
    changed = settings.model_copy(update=values)
    return load_model(load_registry(changed).find("shapes64"), settings=changed), changed


def _embeddings(model: Model, spec: ImageSpec, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The texts as the engine encodes them, `rows` a pass."""
    prompt, negative = texts_of(spec)
    assert negative is not None
    with torch.inference_mode():
        found = Conditioner(model, rows=rows, windows=1).conditions([prompt, negative])
    hidden = [condition.hidden for condition in found]
    assert hidden[0] is not None
    assert hidden[1] is not None
    return hidden[0].clone(), hidden[1].clone()


def test_rows_equal_diffusers_in_passes_of_one_shape(
    settings: Settings, device: torch.device
) -> None:
    # In one memory format too: diffusers' pipelines keep the usual one.
    model, plain = _reloaded(settings, channels_last=False)
    rows = [
        spec_for(model, sampler=sampler, seed=seed, prompt=CAPTIONS[seed % 4], steps=5 + seed % 3)
        for seed, sampler in enumerate(SAMPLERS)
    ]
    engine = open_engine(model, rows[0].group(), plain, SLOTS)
    prompts = engine.environment.document()["shapes"]["prompts"]
    oracle = Oracle(model)
    for spec, result in zip(rows, render(engine, rows), strict=True):
        pixels = pixels_of(result)
        assert pixels.std() > 1
        embeddings = _embeddings(model, spec, prompts)
        expected = oracle.same_shape(spec, slots=SLOTS, embeddings=embeddings)
        assert worst_difference(pixels, expected) <= _bound(device)
        # By itself a row has other shapes, and so other kernels: the same picture all the same.
        assert abs(pixels.astype(int) - oracle.alone(spec).astype(int)).mean() < 1


@pytest.mark.parametrize("name", ["stable_diffusion_3", "pixart_sigma", "flux_schnell"])
def test_another_pipelines_rows_equal_diffusers(
    name: str, device: torch.device, settings: Settings, tmp_path: Path
) -> None:
    shop = Shop(tmp_path, slots=2)
    shop.settings = shop.settings.model_copy(
        update={"device": settings.device, "dtype": settings.dtype}
    )
    model = shop.model(name)
    assert model.pipeline is not None
    specs = [spec_of(model, seed=seed) for seed in (1, 2)]
    results = render(open_engine(model, specs[0].group(), shop.settings), specs)
    pipeline = shop.pipeline(name).to(device, model.dtype)
    for spec, result in zip(specs, results, strict=True):
        expected = PipelineOracle(name, pipeline).same_shape(spec, slots=2)
        assert worst_difference(pixels_of(result), expected) <= _bound(device)


@pytest.mark.parametrize("guidance", [5.0, 1.0], ids=["guided", "unguided"])
def test_the_certificate_holds(guidance: float, shapes64: Model, settings: Settings) -> None:
    group = spec_for(shapes64, guidance_scale=guidance).group()
    engine = open_engine(shapes64, group, settings, SLOTS)
    verdict = certify(engine, group, model_name="shapes64", rows=2, rounds=2)

    assert verdict.holds, verdict.document()


TUNINGS = [
    {"channels_last": False},
    {"channels_last": True},
    {"fuse_projections": True},
    {"vae_tiling": True},
    {"cpu_offload": True},
]


@pytest.mark.parametrize("values", TUNINGS, ids=str)
def test_a_tuning_draws_the_same_picture(
    values: dict[str, Any], shapes64: Model, settings: Settings
) -> None:
    model, changed = _reloaded(settings, **values)
    spec = spec_for(model, sampler="dpmpp_2m")
    engine = open_engine(model, spec.group(), changed, SLOTS)
    usual = open_engine(shapes64, spec.group(), settings, SLOTS)
    [tuned], [plain] = render(engine, [spec]), render(usual, [spec])

    assert worst_difference(pixels_of(tuned), pixels_of(plain)) <= 8
    assert certify(engine, spec.group(), model_name="shapes64").holds


def test_what_rests_is_off_the_device(cuda: torch.device, settings: Settings) -> None:
    model, changed = _reloaded(settings, cpu_offload=True)
    spec = spec_for(model)
    render(open_engine(model, spec.group(), changed, SLOTS), [spec])

    assert {model.components[name].device.type for name in ("text_encoder", "vae")} == {"cpu"}
    assert model.components["unet"].device.type == cuda.type


@pytest.mark.parametrize("attention", sorted(BACKENDS))
def test_an_attention_kernel_draws_the_same_picture(
    attention: str, shapes64: Model, settings: Settings
) -> None:
    try:
        check_attention(Tuning(attention=attention), shapes64.device, shapes64.dtype)
    except SettingsError as error:
        pytest.skip(error.message)
    model, changed = _reloaded(settings, attention=attention)
    spec = spec_for(model, sampler="dpmpp_2m")
    engine = open_engine(model, spec.group(), changed, SLOTS)
    usual = open_engine(shapes64, spec.group(), settings, SLOTS)
    [chosen], [plain] = render(engine, [spec]), render(usual, [spec])

    assert worst_difference(pixels_of(chosen), pixels_of(plain)) <= 8
    assert engine.environment.document()["tuning"]["attention"] == attention
    assert certify(engine, spec.group(), model_name="shapes64").holds


@pytest.mark.timeout(1200)
def test_compiled_kernels_draw_the_same_picture_from_one_graph(
    shapes64: Model, settings: Settings
) -> None:
    """Minutes on a CPU, nearly all of them the compiler's."""
    torch._dynamo.reset()
    counters.clear()
    small = narrow(shapes64)
    rows = [
        spec_for(small, sampler=sampler, steps=steps, guidance_scale=scale, seed=steps)
        for sampler, steps, scale in (("ddim", 3, 2.0), ("heun", 4, 7.5), ("euler_a", 5, 5.0))
    ]
    expected = render(open_engine(small, rows[0].group(), settings, 2), rows)
    tune(
        small.components,
        Tuning(compiled=True, channels_last=small.tuning.channels_last),
        small.device,
    )
    engine = open_engine(small, rows[0].group(), settings, 2)
    results = render(engine, rows)

    for result, usual in zip(results, expected, strict=True):
        assert worst_difference(pixels_of(result), pixels_of(usual)) <= 8
    assert counters["frames"] == {"total": 1, "ok": 1}
    # The graph that was compiled is used again, and gives the same bits.
    assert hashes(render(engine, rows)) == hashes(results)
    assert counters["stats"]["unique_graphs"] == 1


def test_the_benchmark_runs_to_its_end(device: torch.device, tmp_path: Path) -> None:
    few = ["--tiny", "--only", "sd15-eager-fixed", "--slots", "2", "--results", str(tmp_path)]
    assert gpu.main(["--device", str(device), *few, "--weights", str(tmp_path / "weights")]) == 0
    assert len(list(tmp_path.glob("gpu-*/sd15-eager-fixed.json"))) == 1
