"""The generic engine's conduct: batches, stops between steps, refusals, and what is not loaded."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imagemill.db.errors import ModelError, OutOfMemory, RenderError, UsageError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.certificate import certify
from tests.engine.rendering import hashes, pixels_of, render
from tests.oracle.registered import Shop, spec_of, table_of

SLOTS = 2
QUICK = "stable_diffusion_3"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)


@pytest.fixture
def model(shop: Shop) -> Model:
    return shop.model(QUICK)


@pytest.fixture(autouse=True)
def no_call_stays_behind() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "pipeline"]


def test_a_step_is_a_denoiser_call_and_images_of_equal_settings_share_it(
    shop: Shop, model: Model
) -> None:
    engine = open_engine(model, spec_of(model).group(), shop.settings, 4)
    engine.admit([(n, spec_of(model, seed=n, steps=2 + n % 2)) for n in range(4)])
    ended = []
    for steps in range(1, 6):
        ended.append(sorted(result.ticket for result in engine.step()))
        assert engine.steps == steps
    # Those with 2 steps together, then those with 3.
    assert ended == [[], [0, 2], [], [], [1, 3]]
    assert (engine.busy, engine.room()) == (False, 4)
    assert engine.step() == []
    assert engine.steps == 5


def test_images_that_come_during_a_call_wait_for_the_next(shop: Shop, model: Model) -> None:
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    engine.admit([(1, spec_of(model))])
    engine.step()
    engine.admit([(2, spec_of(model, seed=2))])
    assert engine.room() == 0
    with pytest.raises(ValueError, match="free slots"):
        engine.admit([(3, spec_of(model))])
    assert [result.ticket for result in engine.step()] == [1]
    assert engine.room() == 1
    engine.step()
    assert [result.ticket for result in engine.step()] == [2]


def test_a_cancelled_image_does_not_disturb_its_neighbour(shop: Shop, model: Model) -> None:
    specs = [spec_of(model, seed=1), spec_of(model, seed=2)]
    engine = open_engine(model, specs[0].group(), shop.settings)
    expected = hashes(render(engine, specs))
    engine.admit(list(enumerate(specs)))
    engine.step()
    assert engine.cancel([0, 7]) == [0]
    assert engine.room() == 1
    [result] = engine.step()
    assert result.ticket == 1
    assert hashes([result]) == [expected[1]]


def test_a_call_ends_when_all_its_images_are_dropped(shop: Shop, model: Model) -> None:
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    for drop in (lambda: engine.cancel([1]), engine.abandon):
        engine.admit([(1, spec_of(model, steps=50))])
        engine.step()
        assert drop() == [1]
        assert (engine.busy, engine.room()) == (False, SLOTS)
        assert not [thread for thread in threading.enumerate() if thread.name == "pipeline"]
    # Before it began, too.
    engine.admit([(1, spec_of(model))])
    assert engine.abandon() == [1]
    assert isinstance(render(engine, [spec_of(model)])[0], Rendered)


def test_two_engines_of_one_model_do_not_stop_each_other(shop: Shop, model: Model) -> None:
    group = spec_of(model).group()
    one, other = (open_engine(model, group, shop.settings) for _ in range(2))
    expected = hashes(render(one, [spec_of(model, steps=3)]))
    one.admit([(1, spec_of(model, steps=3))])
    other.admit([(1, spec_of(model, steps=2, sampler="flow_heun"))])
    one.step()
    other.step()
    one.step()
    assert hashes(one.step()) == expected
    other.abandon()


@pytest.mark.parametrize("name", [QUICK, "qwen_image", "z_image"])
def test_it_can_be_certified(name: str, shop: Shop) -> None:
    model = shop.model(name)
    group = spec_of(model).group()
    verdict = certify(open_engine(model, group, shop.settings), group, model_name=name)

    assert [check.name for check in verdict.checks] == ["every slot", "shuffled neighbours"]
    assert verdict.holds


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (QUICK, {"init_image": "0" * 64}, "no init_image"),
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
    assert engine.abandon() == [1, 2]
    assert isinstance(render(engine, [spec_of(model)])[0], Rendered)


@pytest.mark.parametrize(("value", "outcome"), [(float("nan"), Outcome.NAN), (0.5, Outcome.BLANK)])
def test_nan_and_uniform_pictures_are_told(
    value: float, outcome: Outcome, shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = model.components["vae"]
    decode = vae.decode

    def spoilt(latents: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        pictures = decode(latents, **options)[0]
        return (torch.cat([torch.full_like(pictures[:1], value), pictures[1:]]),)

    monkeypatch.setattr(vae, "decode", spoilt)
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    bad, good = render(engine, [spec_of(model), spec_of(model, seed=2)])
    assert isinstance(bad, Rendered)
    assert bad.outcome is outcome
    assert isinstance(good, Rendered)
    assert good.outcome is Outcome.OK


# Loading -----------------------------------------------------------------------------------


@pytest.fixture
def copy(shop: Shop, tmp_path: Path) -> Path:
    """A family's folder that may be spoilt, registered as `copy`."""
    shutil.copytree(shop.saved(QUICK), tmp_path / "copy")
    shop.register(table_of("copy", tmp_path / "copy"))
    return tmp_path / "copy"


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": ["pipeline", "MyPipeline"]}, "never run"),
        ({"_class_name": "MyPipeline"}, "no pipeline 'MyPipeline'"),
        ({"_class_name": "UNet2DModel"}, "no pipeline"),
        ({"transformer": ["os", "system"]}, "os.system"),
        ({"transformer": ["diffusers", "NoSuchModel"]}, "diffusers.NoSuchModel"),
    ],
)
def test_foreign_code_is_refused(
    changes: dict[str, Any], said: str, copy: Path, shop: Shop
) -> None:
    _edit(copy / "model_index.json", **changes)
    with pytest.raises(ModelError, match=said):
        shop.load("copy")


def test_code_beside_weights_is_refused(copy: Path, shop: Shop) -> None:
    (copy / "transformer" / "diffusers.py").write_text("raise SystemExit")
    with pytest.raises(ModelError, match="holds code"):
        shop.load("copy")


def test_pickled_weights_are_refused(copy: Path, shop: Shop) -> None:
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="pickled"):
        shop.load("copy")


def test_the_digest_covers_the_pipelines_class(copy: Path, shop: Shop) -> None:
    entry = load_registry(shop.settings).find("copy")
    before = weights_digest(entry)
    _edit(copy / "model_index.json", _class_name="StableDiffusion3PAGPipeline")
    assert weights_digest(entry) != before


def test_a_part_and_a_sampler_of_another_place(copy: Path, shop: Shop) -> None:
    model = shop.model(QUICK)
    torch.manual_seed(7)
    vae = type(model.components["vae"]).from_config(model.components["vae"].config)
    vae.save_pretrained(copy.parent / "other_vae")
    shop.register(
        table_of("plain", copy),
        table_of("composed", copy),
        "[models.composed.parts]",
        f'vae = {{ source = "{copy.parent}", subfolder = "other_vae" }}',
        'scheduler = { class = "FlowMatchHeunDiscreteScheduler", shift = 2.0 }',
    )
    plain, composed = shop.load("plain"), shop.load("composed")
    assert plain.weights_digest == model.weights_digest
    assert composed.weights_digest != plain.weights_digest
    assert type(composed.pipeline.scheduler).__name__ == "FlowMatchHeunDiscreteScheduler"
    pictures = []
    for each in (plain, composed):
        spec = spec_of(each)
        [result] = render(open_engine(each, spec.group(), shop.settings), [spec])
        pictures.append(pixels_of(result))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize(
    ("name", "multiple", "default", "prediction"),
    [
        ("stable_diffusion_3", 8, 64, "flow_prediction"),
        ("flux_dev", 16, 1024, "flow_prediction"),
        ("pixart_sigma", 16, 64, "epsilon"),
        ("sana", 8, 64, "flow_prediction"),
        ("qwen_image", 16, 1024, "flow_prediction"),
        ("z_image", 16, 1024, "flow_prediction"),
        ("latent_consistency", 8, 64, "epsilon"),
    ],
)
def test_the_facts_of_a_family(
    name: str, multiple: int, default: int, prediction: str, shop: Shop
) -> None:
    shop.saved(name)
    facts = model_facts(load_registry(shop.settings).find(name))
    assert facts.size_multiple == multiple
    assert facts.default_size == (default, default)
    assert facts.prediction_type == prediction
    assert facts.window is None
