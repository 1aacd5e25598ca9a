"""Speed and memory settings of any pipeline: the same picture, or one line that says no."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from imagemill.db.errors import SettingsError
from imagemill.db.models.families import find_family
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tests.engine.rendering import pixels_of, render
from tests.oracle.registered import Shop, spec_of
from tools.parity.oracle import worst_difference

SAME = [
    {"attention": "math"},
    {"channels_last": True},
    {"fuse_projections": True},
    {"cpu_offload": True},
    {"group_offload": "block"},
    {"group_offload": "leaf"},
    {"vae_slicing": True},
]
"""Settings that change no more than last bits."""

Drawn = tuple[Any, dict[str, Any]]
"""A picture's pixels, and what is recorded of its tuning."""

QUICK = ["flux_schnell", "stable_diffusion_3", "sana", "lumina_2"]


@pytest.fixture(scope="module")
def usual(shop: Shop) -> Callable[[str], Drawn]:
    """What a family draws without any setting, and what of that is recorded."""
    return cache(lambda name: _picture(shop.model(name), shop.settings))


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Graphs are made as always, and run as they are: no compiler, no minutes."""
    compiling = torch.nn.Module.compile

    def with_backend(module: torch.nn.Module, **options: Any) -> None:
        options.pop("mode", None)
        compiling(module, **options, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", with_backend)
    monkeypatch.setenv("CXX", sys.executable)  # none is called, but one has to be there
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _tuned(shop: Shop, name: str, **values: object) -> tuple[Model, Settings]:
    shop.saved(name)
    settings = shop.settings.model_copy(update=values)
    return load_model(load_registry(settings).find(name), settings=settings), settings


def _picture(model: Model, settings: Settings) -> Drawn:
    spec = spec_of(model)
    engine = open_engine(model, spec.group(), settings)
    [result] = render(engine, [spec])
    return pixels_of(result), engine.environment.document()["tuning"]


def _has(name: str, setting: str, shop: Shop) -> bool:
    family = find_family(type(shop.model(name).pipeline).__name__)
    assert family is not None
    return setting not in family.lacks


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("values", SAME, ids=str)
def test_a_setting_keeps_the_picture_and_is_recorded(
    values: dict[str, object], name: str, shop: Shop, usual: Callable[[str], Drawn]
) -> None:
    [setting] = values
    if not _has(name, setting, shop):
        with pytest.raises(SettingsError, match=f"IMAGEMILL_{setting.upper()}: ") as caught:
            _tuned(shop, name, **values)
        assert "\n" not in caught.value.message
        return
    untuned, plain = usual(name)
    tuned, recorded = _picture(*_tuned(shop, name, **values))
    assert worst_difference(tuned, untuned) <= 1
    assert plain == {"attention": "sdpa"}
    assert recorded != plain


@pytest.mark.parametrize("name", QUICK)
def test_fp8_storage_is_another_picture_of_the_same(
    name: str, shop: Shop, usual: Callable[[str], Drawn]
) -> None:
    model, settings = _tuned(shop, name, fp8_storage=True)
    stored = {
        parameter.dtype for parameter in model.pipeline.components["transformer"].parameters()
    }
    assert torch.float8_e4m3fn in stored
    tuned, recorded = _picture(model, settings)
    assert recorded["fp8_storage"] is True
    assert 0 < np.abs(tuned.astype(int) - usual(name)[0].astype(int)).mean() < 8


def test_tiles_are_decoded_one_by_one(shop: Shop) -> None:
    model, settings = _tuned(shop, "flux_schnell", vae_tiling=True)
    assert model.pipeline.vae.use_tiling
    assert _picture(model, settings)[1]["vae_tiling"] is True


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize(
    "values",
    [
        {"compile": True},
        {"compile_regions": True, "compile_mode": "max-autotune"},
        {"compile_vae": True},
    ],
    ids=str,
)
def test_what_is_compiled_gives_the_same_picture(
    values: dict[str, object], shop: Shop, usual: Callable[[str], Drawn]
) -> None:
    tuned, recorded = _picture(*_tuned(shop, "flux_schnell", **values))
    assert worst_difference(tuned, usual("flux_schnell")[0]) <= 1
    assert recorded.get("compile_mode") == values.get("compile_mode")
    assert len(recorded) == 1 + len(values)


@pytest.mark.usefixtures("traced_only")
def test_regions_are_refused_where_the_class_names_none(shop: Shop) -> None:
    with pytest.raises(SettingsError, match="SD3Transformer2DModel names no repeated blocks"):
        _tuned(shop, "stable_diffusion_3", compile_regions=True)
    with pytest.raises(SettingsError, match="unset this or IMAGEMILL_COMPILE"):
        _tuned(shop, "flux_schnell", compile_regions=True, compile=True)


def test_a_backend_of_diffusers_runs_one_models_attention(
    shop: Shop, usual: Callable[[str], Drawn]
) -> None:
    tuned, recorded = _picture(*_tuned(shop, "flux_schnell", attention="diffusers:_native_math"))
    assert worst_difference(tuned, usual("flux_schnell")[0]) <= 1
    assert recorded == {"attention": "diffusers:_native_math"}


@pytest.mark.parametrize(
    ("name", "backend", "said"),
    [
        ("flux_schnell", "flash", "no kernel 'diffusers:flash'"),
        ("flux_schnell", "flash_hub", "no backend 'flash_hub' that needs no download"),
        ("flux_schnell", "quick", "no backend 'quick'"),
        ("sana", "_native_math", "attention of SanaTransformer2DModel can't run on"),
    ],
)
def test_a_backend_that_is_not_there_is_one_line(
    name: str, backend: str, said: str, shop: Shop
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        _tuned(shop, name, attention=f"diffusers:{backend}")
    assert "\n" not in caught.value.message
