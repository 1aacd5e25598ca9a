"""A generic pipeline's autoencoder that overflows is asked again in fp32, image by image."""

from typing import Any

import pytest
import torch

from imagemill.db.states import Outcome
from imagemill.worker.engine import Engine, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, render
from tests.oracle.registered import Shop, spec_of

SLOTS = 2


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)
    # The precision of the two that a CPU is quick in; what overflows is fp16.
    shop.settings = shop.settings.model_copy(update={"dtype": "bf16"})
    return shop


def _opened(shop: Shop, name: str) -> tuple[Engine, Model]:
    model = shop.model(name)
    return open_engine(model, spec_of(model).group(), shop.settings), model


def _overflow(vae: Any, monkeypatch: pytest.MonkeyPatch, *, always: bool = False) -> None:
    """Let the first image come out infinite, in fp32 too if `always`."""
    decode = vae.decode
    spoilt: list[torch.Tensor] = []

    def overflowing(latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        values = decode(latents, *args, **options)[0].clone()
        spoilt[:] = spoilt or [latents]
        if (latents.float() == spoilt[0].float()).all() and (
            always or latents.dtype != torch.float32
        ):
            values *= torch.inf
        return (values,)

    monkeypatch.setattr(vae, "decode", overflowing)


@pytest.mark.parametrize("name", ["stable_diffusion_3", "qwen_image", "pixart_sigma", "sana"])
def test_the_row_that_overflowed_is_another_environments(
    name: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = _opened(shop, name)
    vae = model.components["vae"]
    specs = [spec_of(model, seed=seed) for seed in (1, 2)]
    usual = render(engine, specs)
    with monkeypatch.context() as patch:
        _overflow(vae, patch)
        mended, neighbour = render(engine, specs)
    after = render(engine, specs)

    assert isinstance(mended, Rendered)
    assert mended.outcome is Outcome.OK
    assert mended.environment is not None
    assert mended.environment.document()["vae_dtype"] == "fp32"
    assert mended.environment.fingerprint() != engine.environment.fingerprint()
    # Nobody else notices, now or later.
    assert isinstance(neighbour, Rendered)
    assert neighbour.environment is None
    assert hashes([neighbour]) == hashes(usual[1:])
    assert hashes(after) == hashes(usual)
    assert vae.dtype == torch.bfloat16


def test_what_fp32_does_not_help_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, model = _opened(shop, "stable_diffusion_3")
    _overflow(model.components["vae"], monkeypatch, always=True)
    bad, good = render(engine, [spec_of(model), spec_of(model, seed=2)])

    assert isinstance(bad, Rendered)
    assert (bad.outcome, bad.environment) == (Outcome.NAN, None)
    assert isinstance(good, Rendered)
    assert good.outcome is Outcome.OK


def test_latents_that_are_nan_are_not_decoded_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = _opened(shop, "stable_diffusion_3")
    transformer = model.components["transformer"]
    forward = transformer.forward

    def nan(*args: Any, **options: Any) -> Any:
        return (forward(*args, **options)[0] * torch.nan,)

    monkeypatch.setattr(transformer, "forward", nan)
    moves: list[Any] = []
    vae = model.components["vae"]
    monkeypatch.setattr(type(vae), "to", lambda self, *where: moves.append(where) or self)
    [result] = render(engine, [spec_of(model)])

    assert isinstance(result, Rendered)
    assert result.outcome is Outcome.NAN
    assert not moves
