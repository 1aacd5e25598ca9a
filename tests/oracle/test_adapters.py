"""LoRA adapters and textual inversion equal diffusers' own loaders."""

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from imagemill.db.errors import ModelError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.models.weights import file_digest
from imagemill.db.settings import Settings
from imagemill.db.specs import Adapter
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, pixels_of, render, spec_for
from tools.parity.oracle import Oracle, worst_difference

SLOTS = 2


def _fresh(settings: Settings) -> Model:
    return load_model(load_registry(settings).find("shapes64"), settings=settings)


def _save_lora(folder: Path, name: str, seed: int, settings: Settings) -> Path:
    """A LoRA of random weights, as peft and diffusers save one."""
    torch.manual_seed(seed)
    model = _fresh(settings)
    layers = {}
    for component, targets in (
        ("unet", ["to_q", "to_v", "to_out.0"]),
        ("text_encoder", ["q_proj", "v_proj"]),
    ):
        module = model.components[component]
        module.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets))
        state = get_peft_model_state_dict(module)
        layers[component] = {key: torch.randn_like(value) * 0.2 for key, value in state.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers["text_encoder"],
        weight_name=f"{name}.safetensors",
    )
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    _save_lora(folder, "soft", 1, settings)
    _save_lora(folder, "hard", 2, settings)
    return folder


@pytest.fixture(scope="module")
def lora_settings(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"adapters_folder": folder})


@pytest.fixture(scope="module")
def model(settings: Settings) -> Model:
    """Its own copy: adapters change modules in place."""
    return _fresh(settings)


def _adapter(folder: Path, name: str, weight: float) -> Adapter:
    return Adapter(name=name, digest=file_digest(folder / f"{name}.safetensors"), weight=weight)


@pytest.mark.parametrize("weights", [{"soft": 1.0}, {"soft": 0.5, "hard": -0.7}], ids=str)
def test_adapters_equal_diffusers(
    weights: dict[str, float], folder: Path, lora_settings: Settings, model: Model
) -> None:
    adapters = tuple(_adapter(folder, name, weight) for name, weight in weights.items())
    spec = spec_for(model, sampler="dpmpp_2m", adapters=adapters)
    [result] = render(open_engine(model, spec.group(), lora_settings, SLOTS), [spec])

    reference = _fresh(lora_settings)
    loader = diffusers.StableDiffusionPipeline(
        **reference.components,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for name in weights:
        loader.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
    loader.set_adapters(list(weights), list(weights.values()))
    oracle = Oracle(reference)
    assert worst_difference(pixels_of(result), oracle.same_shape(spec, slots=SLOTS)) == 0
    assert worst_difference(pixels_of(result), oracle.alone(spec)) <= 1


def test_engines_of_one_model_wear_their_own_adapters(
    folder: Path, lora_settings: Settings, model: Model, shapes64: Model
) -> None:
    plain = spec_for(model)
    worn = replace(plain, adapters=(_adapter(folder, "soft", 1.0),))
    plain_engine = open_engine(model, plain.group(), lora_settings, SLOTS)
    worn_engine = open_engine(model, worn.group(), lora_settings, SLOTS)
    assert plain_engine.environment.fingerprint() != worn_engine.environment.fingerprint()

    first = hashes(render(worn_engine, [worn]))
    without = hashes(render(plain_engine, [plain]))
    again = hashes(render(worn_engine, [worn]))

    assert first == again
    assert first != without
    untouched = open_engine(shapes64, plain.group(), lora_settings, SLOTS)
    assert without == hashes(render(untouched, [plain]))


def test_an_adapter_that_is_not_here_or_does_not_fit_is_told(
    folder: Path, lora_settings: Settings, model: Model, tmp_path: Path
) -> None:
    gone = spec_for(model, adapters=(Adapter(name="soft", digest="0" * 64),))
    with pytest.raises(ModelError, match="no adapter here has the digest 0000000000"):
        open_engine(model, gone.group(), lora_settings, SLOTS)

    wrong = tmp_path / "wrong.safetensors"
    save_file({"unet.mid_block.nothing.lora_A.weight": torch.zeros(2, 2)}, wrong)
    other = lora_settings.model_copy(update={"adapters_folder": tmp_path})
    misfit = spec_for(model, adapters=(Adapter(name="wrong", digest=file_digest(wrong)),))
    with pytest.raises(ModelError, match=r"adapters wrong\.safetensors do not fit"):
        open_engine(model, misfit.group(), other, SLOTS)
    # And the model is as it was.
    plain = spec_for(model)
    [result] = render(open_engine(model, plain.group(), lora_settings, SLOTS), [plain])
    assert worst_difference(pixels_of(result), Oracle(model).same_shape(plain, slots=SLOTS)) == 0


@pytest.mark.parametrize("vectors", [1, 3])
def test_textual_inversion_equals_diffusers(
    vectors: int, tmp_path: Path, settings: Settings
) -> None:
    torch.manual_seed(vectors)
    file = tmp_path / "blob.safetensors"
    save_file({"<blob>": torch.randn(vectors, 96) * 0.1}, file)
    entry = load_registry(settings).find("shapes64")
    taught = replace(entry, embeddings={"<blob>": file})
    assert weights_digest(taught) != weights_digest(entry)
    model = load_model(taught, settings=settings)
    spec = spec_for(model, prompt="a <blob> circle on a <blob> background")
    [result] = render(open_engine(model, spec.group(), settings, SLOTS), [spec])

    reference = _fresh(settings)
    diffusers.StableDiffusionPipeline(
        **reference.components,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).load_textual_inversion(str(file), token="<blob>")
    oracle = Oracle(reference)
    assert worst_difference(pixels_of(result), oracle.same_shape(spec, slots=SLOTS)) == 0
    assert worst_difference(pixels_of(result), oracle.alone(spec)) <= 1


def test_a_pickled_embedding_is_refused_with_what_converts_it(
    tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "blob.bin").write_bytes(b"pickle")
    entry = load_registry(settings).find("shapes64")
    taught = replace(entry, embeddings={"<blob>": tmp_path / "blob.bin"})
    with pytest.raises(ModelError, match="save_file"):
        load_model(taught, settings=settings)
