"""Weighted prompts, and prompts of several windows, for generic pipelines that read with CLIP."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from tests.engine.rendering import hashes, pixels_of, render
from tests.oracle.ways import FILES, SLOTS, WayShop
from tools.parity.oracle import Pixels, worst_difference
from tools.parity.pipeline_oracle import NO_NEGATIVES, repeated
from tools.parity.ways_of_working import PIPELINES

MODELS = ("stable_diffusion", "stable_diffusion_xl", "latent_consistency")
LONG = "a red circle on a blue background, " * 14 + "and a green star"
WEIGHTED = [("a ", 1.0), ("red", 1.6), (" circle", 1.0)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> WayShop:
    return WayShop(tmp_path_factory.mktemp("embedded"))


def embedded(
    pipeline: Any, segments: Sequence[tuple[str, float]], *, windows: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Words with their weights in so many windows, written out step by step."""
    names = [name for name in ("", "_2") if f"tokenizer{name}" in pipeline.components]
    parts, pooled = [], None
    for number in range(windows):
        layers = []
        for name in names:
            tokenizer = pipeline.components[f"tokenizer{name}"]
            encoder = pipeline.components[f"text_encoder{name}"]
            room = tokenizer.model_max_length - 2
            pairs = [
                (one, weight)
                for words, weight in segments
                for one in tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
            ][number * room : (number + 1) * room]
            padding = [tokenizer.pad_token_id] * (room - len(pairs))
            ids = [one for one, _ in pairs]
            row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]
            with torch.no_grad():
                answer = encoder(torch.tensor([row]), output_hidden_states=True)
            two = len(names) == 2
            layers.append(answer.hidden_states[-2] if two else answer.last_hidden_state)
            if name == "_2" and pooled is None:
                pooled = answer.text_embeds
            factors = [1.0, *(weight for _, weight in pairs), 1.0, *[1.0] * len(padding)]
        hidden = torch.cat(layers, dim=-1)
        if any(factor != 1 for factor in factors):
            scaled = hidden * torch.tensor(factors)[None, :, None]
            hidden = scaled * (hidden.mean() / scaled.mean())
        parts.append(hidden)
    return torch.cat(parts, dim=1), pooled


def drawn(
    pipeline: Any, spec: ImageSpec, segments: Sequence[tuple[str, float]], *, slots: int
) -> Pixels:
    """What diffusers' own pipeline draws of such embeddings."""
    given: dict[str, Any] = {}
    negatives = spec.model not in NO_NEGATIVES
    for kind, words in (("", segments), ("negative_", [("", 1.0)]))[: 2 if negatives else 1]:
        hidden, pooled = embedded(pipeline, words, windows=spec.windows)
        given[f"{kind}prompt_embeds"] = hidden
        if pooled is not None:
            given[f"{kind}pooled_prompt_embeds"] = pooled
    with repeated(pipeline, spec.model, slots), torch.no_grad():
        result = pipeline(
            **given,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            width=spec.width,
            height=spec.height,
            generator=torch.Generator().manual_seed(spec.seed),
        )
    return np.asarray(result.images[0])


def windows_of(shop: WayShop, name: str, prompt: str) -> int:
    tokenizer = shop.model(name).components["tokenizer"]
    tokens = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    return -(-len(tokens) // (tokenizer.model_max_length - 2))


@pytest.mark.parametrize("name", MODELS)
def test_a_weighted_prompt_is_the_weighted_embedding(name: str, shop: WayShop) -> None:
    model = shop.model(name)
    spec = shop.spec(name, prompt="a (red:1.6) circle", prompt_weighting=True, steps=2)
    literal = replace(spec, prompt_weighting=False)
    ones = replace(spec, prompt="a (red:1.0) circle")
    engine = open_engine(model, spec.group(), shop.settings, inputs=FILES)
    weighted, plain, once = render(engine, [spec, literal, ones])

    pixels = pixels_of(weighted)
    pipeline = shop.pipeline(name)
    assert worst_difference(pixels, drawn(pipeline, spec, WEIGHTED, slots=SLOTS)) == 0
    assert worst_difference(pixels, drawn(pipeline, spec, WEIGHTED, slots=1)) <= 1
    assert len(set(hashes([weighted, plain, once]))) == 3
    assert hashes(render(engine, [ones, spec])) == hashes([once, weighted])


@pytest.mark.parametrize("name", MODELS)
def test_a_long_prompt_fills_more_windows(name: str, shop: WayShop) -> None:
    model, windows = shop.model(name), windows_of(shop, name, LONG)
    assert windows > 1
    spec = shop.spec(name, prompt=LONG, long_prompts="chunk", windows=windows, steps=2)
    engine = open_engine(model, spec.group(), shop.settings, inputs=FILES)
    whole, other = render(engine, [spec, replace(spec, prompt="a red circle", seed=2)])
    assert isinstance(whole, Rendered)
    assert whole.outcome is Outcome.OK
    expected = drawn(shop.pipeline(name), spec, [(LONG, 1.0)], slots=SLOTS)
    assert worst_difference(pixels_of(whole), expected) == 0
    assert hashes(render(engine, [replace(spec, prompt="a red circle", seed=2)])) == hashes([other])

    short = replace(spec, long_prompts="truncate", windows=1)
    [cut] = render(open_engine(model, short.group(), shop.settings, inputs=FILES), [short])
    assert isinstance(cut, Rendered)
    assert cut.outcome is Outcome.TRUNCATED_PROMPT
    assert (cut.pixels != pixels_of(whole)).any()
    # Another context length is another group.
    [failed] = render(engine, [short])
    assert isinstance(failed, Failed)


@pytest.mark.parametrize("way", ["", *PIPELINES["stable_diffusion_xl"]])
def test_without_a_weight_it_is_what_the_pipeline_encodes_itself(way: str, shop: WayShop) -> None:
    """In every way of working. Of the small models only this one has CLIP's tokenizer."""
    name = "stable_diffusion_xl"
    plain = shop.spec(name, way, prompt="a red circle", steps=2)
    ones = replace(plain, prompt="a (red:1.0) circle", prompt_weighting=True)
    heavy = replace(plain, prompt="a (red:1.9) circle", prompt_weighting=True)
    engine = open_engine(shop.model(name), plain.group(), shop.settings, inputs=FILES)
    found = hashes(render(engine, [plain, ones, heavy]))
    assert found[0] == found[1]
    assert found[2] != found[0]


def test_what_does_not_fit_into_the_windows_is_told(shop: WayShop) -> None:
    spec = shop.spec("stable_diffusion", prompt=f"({LONG}:1.1)", prompt_weighting=True, steps=1)
    engine = open_engine(shop.model("stable_diffusion"), spec.group(), shop.settings, inputs=FILES)
    bad = replace(spec, prompt="a (red:1.2.3) circle")
    cut, failed = render(engine, [spec, bad])
    assert isinstance(cut, Rendered)
    assert cut.outcome is Outcome.TRUNCATED_PROMPT
    assert cut.cut
    assert LONG.endswith(cut.cut)
    assert isinstance(failed, Failed)
    assert "1.2.3" in failed.error.message


@pytest.mark.parametrize("fields", [{"prompt_weighting": True}, {"long_prompts": "chunk"}])
def test_another_encoder_refuses_both(fields: Mapping[str, Any], shop: WayShop) -> None:
    spec = shop.spec("stable_diffusion_3", **fields)
    engine = open_engine(
        shop.model("stable_diffusion_3"), spec.group(), shop.settings, inputs=FILES
    )
    [failed] = render(engine, [spec])
    assert isinstance(failed, Failed)
    assert next(iter(fields)) in failed.error.message
