"""The guidance interval: what it draws, and the rows that it saves."""

from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from imagemill.worker.engine.factory import open_engine
from tests.engine.rendering import hashes, pixels_of, render
from tests.oracle.ways import FILES, SLOTS, WayShop
from tools.parity.oracle import worst_difference


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> WayShop:
    return WayShop(tmp_path_factory.mktemp("interval"))


@pytest.mark.parametrize(
    "name", ["stable_diffusion", "stable_diffusion_3", "flux_schnell", "z_image", "qwen_image"]
)
def test_an_interval_of_all_or_nothing(name: str, shop: WayShop) -> None:
    """Without one guided step an image is that without guidance; with all nothing changes."""
    guided = shop.spec(name)
    none = replace(guided, guidance_start=0.9, guidance_end=0.95)
    half = replace(guided, guidance_end=0.5)
    engine = open_engine(shop.model(name), guided.group(), shop.settings, inputs=FILES)
    whole, without, part = (pixels_of(each) for each in render(engine, [guided, none, half]))

    # Z-Image guides by `scale` where the others do by `scale - 1`.
    plain = replace(guided, guidance_scale=0.0 if name == "z_image" else 1.0)
    unguided = open_engine(shop.model(name), plain.group(), shop.settings, inputs=FILES)
    assert worst_difference(without, pixels_of(render(unguided, [plain])[0])) <= 1
    assert (part != whole).any()
    assert (part != without).any()


@pytest.mark.parametrize(
    "name", ["stable_diffusion", "stable_diffusion_3", "z_image", "flux_schnell"]
)
def test_a_step_without_guidance_takes_half_the_rows(
    name: str, shop: WayShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = shop.spec(name, guidance_start=0.2, guidance_end=0.6)
    model = shop.model(name)
    denoiser = model.components.get("transformer") or model.components["unet"]
    engine = open_engine(model, spec.group(), shop.settings, inputs=FILES)
    forward, rows = type(denoiser).forward, []

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        named = [kwargs[key] for key in ("sample", "hidden_states", "x") if key in kwargs]
        rows.append(len((named or args)[0]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(denoiser), "forward", counted)
    both = [spec, replace(spec, seed=2)]
    together = hashes(render(engine, both))
    guided = [SLOTS, SLOTS] if name == "flux_schnell" else [2 * SLOTS]
    assert rows == [SLOTS, *guided, *guided, SLOTS, SLOTS]
    assert [hashes(render(engine, [each]))[0] for each in both] == together


def test_a_cutoff_equals_diffusers_own_callback(shop: WayShop) -> None:
    spec = shop.spec("stable_diffusion", guidance_end=0.4)
    model = shop.model("stable_diffusion")
    engine = open_engine(model, spec.group(), shop.settings, inputs=FILES)
    [result] = render(engine, [spec])
    # The callback runs after a step, so guidance is gone from the one after it.
    cutoff = diffusers.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    drawn = shop.pipeline("stable_diffusion")(
        spec.prompt,
        num_inference_steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(spec.seed),
        width=spec.width,
        height=spec.height,
        callback_on_step_end=cutoff,
    )
    assert worst_difference(pixels_of(result), np.asarray(drawn.images[0])) <= 1
