"""What goes wrong in the slot engine: who fails, who goes on, and what is refused."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from imagemill.db.errors import OutOfMemory, RenderError, UsageError
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, PassFailed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, render
from tests.oracle.registered import Shop, spec_of

QUICK = "stable_diffusion_3"


@pytest.fixture
def model(shop: Shop) -> Model:
    return shop.model(QUICK)


def test_an_image_that_raises_between_passes_fails_alone(
    shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [spec_of(model, seed=1), spec_of(model, seed=2, sampler="flow_heun")]
    engine = open_engine(model, specs[0].group(), shop.settings)
    expected = hashes(render(engine, specs[:1]))
    engine.admit(list(enumerate(specs)))
    heun = diffusers.FlowMatchHeunDiscreteScheduler
    monkeypatch.setattr(heun, "step", _raising(ValueError("no such step")))
    [failed] = engine.step()
    assert isinstance(failed, Failed)
    assert failed.ticket == 1
    assert isinstance(failed.error, RenderError)
    assert "no such step" in failed.error.message
    assert hashes(engine.step()) == expected


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (QUICK, {"control_image": "0" * 64}, "no control_image"),
        (QUICK, {"sampler": "ddim"}, "flow-matching"),
        (QUICK, {"sampler": "from a later version"}, "no sampler"),
        (QUICK, {"guidance_rescale": 0.5}, "no guidance_rescale"),
        (QUICK, {"prompt_weighting": True}, "no prompt_weighting"),
        (QUICK, {"width": 128}, "not of this group"),
        ("pixart_sigma", {"clip_skip": 2}, "no clip_skip"),
        ("pixart_sigma", {"sampler": "flow_euler"}, "not flow-matching"),
        ("flux_dev", {"negative_prompt": "blue"}, "no negative_prompt"),
        # The pipeline itself says so, when it is called.
        ("flux_schnell", {"sampler": "flow_heun"}, "sigmas"),
        ("latent_consistency", {"steps": 60}, "60"),
    ],
)
def test_what_a_pipeline_has_not_fails_alone(
    name: str, changes: dict[str, Any], said: str, shop: Shop
) -> None:
    model = shop.model(name)
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    bad, good = render(engine, [spec_of(model, **changes), spec_of(model)])

    assert isinstance(bad, Failed)
    assert isinstance(bad.error, UsageError)
    assert said in bad.error.message
    assert isinstance(good, Rendered)


def _raising(error: Exception) -> Callable[..., None]:
    def forward(*args: object, **kwargs: object) -> None:
        raise error

    return forward


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("no room"), OutOfMemory),
        (RuntimeError("bad kernel"), RenderError),
        (ValueError("in the middle"), RenderError),
    ],
)
def test_a_failing_call_accuses_nobody(
    raised: Exception,
    expected: type[Exception],
    shop: Shop,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    engine.admit([(1, spec_of(model)), (2, spec_of(model, seed=2))])
    with monkeypatch.context() as patch:
        patch.setattr(model.components["transformer"], "forward", _raising(raised))
        with pytest.raises(expected):
            engine.step()
    assert engine.steps == 0
    assert engine.abandon() == [1, 2]
    assert isinstance(render(engine, [spec_of(model)])[0], Rendered)


@pytest.mark.parametrize(("value", "outcome"), [(float("nan"), Outcome.NAN), (0.5, Outcome.BLANK)])
def test_nan_and_uniform_pictures_are_told(
    value: float, outcome: Outcome, shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = model.components["vae"]
    decode = vae.decode
    calls = iter(range(2))

    def spoilt(latents: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        (picture,) = decode(latents, **options)
        return (torch.full_like(picture, value) if next(calls) == 0 else picture,)

    monkeypatch.setattr(vae, "decode", spoilt)
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    bad, good = render(engine, [spec_of(model), spec_of(model, seed=2)])
    assert isinstance(bad, Rendered)
    assert bad.outcome is outcome
    assert isinstance(good, Rendered)
    assert good.outcome is Outcome.OK


def test_a_failing_call_names_the_images_in_it_and_the_others_go_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shop.model("z_image")
    first = spec_of(model, prompt="snow " * 12)
    alike = [spec_of(model, seed=seed, steps=3) for seed in (1, 2)]
    engine = open_engine(model, first.group(), shop.settings)
    expected = hashes(render(engine, [first]))
    # One image after another, so that the third joins the second in a pass.
    engine.admit([(1, first), (2, alike[0])])
    engine.admit([(3, alike[1])])
    with monkeypatch.context() as patch:
        patch.setattr(model.components["transformer"], "forward", _raising(RuntimeError("bad")))
        with pytest.raises(PassFailed, match="bad") as failed:
            engine.step()
    assert failed.value.tickets == {2, 3}
    assert sorted(engine.cancel(failed.value.tickets)) == [2, 3]
    results: list[Any] = []
    while engine.busy:
        results += engine.step()
    assert [result.ticket for result in results] == [1]
    assert hashes(results) == expected


def test_a_failing_call_of_a_recorded_batch_accuses_all_of_it(
    shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = shop.settings.model_copy(update={"batches": "recorded"})
    engine = open_engine(model, spec_of(model).group(), recorded)
    engine.admit([(1, spec_of(model)), (2, spec_of(model, seed=2))])
    forward = _raising(RuntimeError("bad"))
    monkeypatch.setattr(model.components["transformer"], "forward", forward)
    with pytest.raises(RenderError, match="bad") as failed:
        engine.step()
    assert not isinstance(failed.value, PassFailed)
