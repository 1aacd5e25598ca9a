"""The slot engine's conduct: passes, texts of many lengths, refusals, and what is not loaded."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
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
def nothing_stays_behind(shop: Shop) -> Iterator[None]:
    """Whatever a pipeline changes for its call is as before, also where it was stopped."""
    yield
    assert torch.is_grad_enabled()
    assert "forward" not in vars(shop.model(QUICK).components["transformer"])


def test_images_of_any_steps_samplers_and_guidance_share_passes(shop: Shop, model: Model) -> None:
    specs = [
        spec_of(model, seed=1, steps=2),
        spec_of(model, seed=2, steps=4, guidance_scale=7.0),
        spec_of(model, seed=3, steps=3, sampler="flow_dpmpp_2m"),
        spec_of(model, seed=4, steps=4, negative_prompt="blue", prompt="two green stars"),
    ]
    engine = open_engine(model, specs[0].group(), shop.settings, 4)
    engine.admit(list(enumerate(specs)))
    ended = []
    for steps in range(1, 5):
        ended.append(sorted(result.ticket for result in engine.step()))
        assert engine.steps == steps
    assert ended == [[], [0], [2], [1, 3]]
    assert (engine.busy, engine.room()) == (False, 4)
    assert engine.step() == []
    assert engine.steps == 4


def test_an_image_that_comes_late_joins_at_once(shop: Shop, model: Model) -> None:
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    expected = hashes(render(engine, [spec_of(model, seed=2)]))
    engine.admit([(1, spec_of(model, steps=3))])
    engine.step()
    engine.admit([(2, spec_of(model, seed=2))])
    assert engine.room() == 0
    with pytest.raises(ValueError, match="free slots"):
        engine.admit([(3, spec_of(model))])
    assert engine.step() == []
    both = sorted(engine.step(), key=lambda result: result.ticket)
    assert [result.ticket for result in both] == [1, 2]
    assert hashes(both[1:]) == expected


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


def test_a_call_ends_where_its_image_is_dropped(
    shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    pipeline = type(model.pipeline)
    call = pipeline.__call__

    @wraps(call)
    def watched(self: Any, **options: Any) -> Any:
        try:
            return call(self, **options)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    monkeypatch.setattr(pipeline, "__call__", watched)
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    for drop in (lambda: engine.cancel([1]), engine.abandon):
        engine.admit([(1, spec_of(model, steps=50))])
        engine.step()
        ended.clear()
        assert drop() == [1]
        assert ended == ["GreenletExit"]
        assert (engine.busy, engine.room()) == (False, SLOTS)
    # Before its first pass, too.
    engine.admit([(1, spec_of(model))])
    assert engine.abandon() == [1]
    assert isinstance(render(engine, [spec_of(model)])[0], Rendered)


def test_two_engines_of_one_model_do_not_meet(shop: Shop, model: Model) -> None:
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


def test_what_torch_keeps_for_a_thread_is_the_callers_in_every_slot(
    shop: Shop, model: Model
) -> None:
    """Calls are begun and end in no order, and each puts back what it found."""
    engine = open_engine(model, spec_of(model).group(), shop.settings)
    with torch.enable_grad():
        engine.admit([(1, spec_of(model, steps=2))])
        assert torch.is_grad_enabled()
        engine.step()
        engine.admit([(2, spec_of(model, steps=2, seed=2))])
        [first] = engine.step()
        assert torch.is_grad_enabled()
        [second] = engine.step()
        assert torch.is_grad_enabled()
    assert (first.ticket, second.ticket) == (1, 2)


def test_the_environment_says_what_rendered(shop: Shop, model: Model) -> None:
    environment = open_engine(model, spec_of(model).group(), shop.settings).environment
    assert environment.document()["engine"] == "slots"


@pytest.mark.parametrize("name", ["qwen_image", "z_image"])
def test_texts_of_many_lengths_fill_their_passes(name: str, shop: Shop) -> None:
    model = shop.model(name)
    prompts = ["", "a red circle", "two green stars on a white background", "snow " * 12]
    specs = [
        spec_of(model, prompt=prompts[n % 4], seed=n, steps=1 + n % 4, guidance_scale=2.0 + n)
        for n in range(16)
    ]
    engine = open_engine(model, specs[0].group(), shop.settings)
    waiting, results, most = list(enumerate(specs)), {}, 0
    while waiting or engine.busy:
        while waiting and engine.room():
            engine.admit([waiting.pop(0)])
        most = max(most, len(waiting) and 16 - len(waiting) - len(results))
        results |= {result.ticket: result for result in engine.step()}
    calls = sum(spec.steps for spec in specs) * (2 if name == "qwen_image" else 1)
    # More images than places are under way, so that passes are full until nearly the end.
    assert SLOTS < most <= 3 * SLOTS
    assert calls / engine.steps > 0.85 * SLOTS
    backwards = render(engine, specs[::-1])[::-1]
    assert hashes([results[n] for n in range(16)]) == hashes(backwards)


def test_a_pipeline_that_refuses_two_images_renders_one_in_a_pass(
    shop: Shop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = type(model.pipeline)
    call = pipeline.__call__

    @wraps(call)
    def one_only(self: Any, **options: Any) -> Any:
        if len(options["prompt"]) > 1:
            raise ValueError("one image only")
        return call(self, **options)

    specs = [spec_of(model, seed=seed) for seed in (1, 2)]
    usual = render(open_engine(model, specs[0].group(), shop.settings, 1), specs)
    monkeypatch.setattr(pipeline, "__call__", one_only)
    engine = open_engine(model, specs[0].group(), shop.settings)
    results = render(engine, specs)
    assert engine.steps == 4
    assert hashes(results) == hashes(usual)


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
