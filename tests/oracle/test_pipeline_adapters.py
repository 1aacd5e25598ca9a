"""LoRA and textual inversion of any pipeline equal diffusers' own loaders."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from imagemill.db.errors import ModelError
from imagemill.db.models.families import find_family
from imagemill.db.models.weights import file_digest
from imagemill.db.settings import Settings
from imagemill.db.specs import Adapter
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, pixels_of, render
from tests.oracle.registered import Shop, spec_of, table_of
from tools.parity.oracle import worst_difference
from tools.parity.pipeline_oracle import PipelineOracle
from tools.small_models.families import FAMILIES

SLOTS = 2
WITH_LORA = sorted(FAMILIES.keys() - {"hunyuan_dit", "pixart_sigma"})
TEXTS = {"flux_dev", "latent_consistency", "stable_diffusion_3"}
"""Families whose files may hold a LoRA of the text encoder too."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


def _fresh(shop: Shop, name: str) -> Model:
    """A family's model of its own: adapters change modules in place."""
    shop.saved(name)
    return shop.load(name)


def _layers(module: Any, wanted: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The layers of a LoRA of random weights on a module's projections."""
    names = [
        name
        for name, each in module.named_modules()
        if isinstance(each, torch.nn.Linear) and name.rsplit(".", 1)[-1] in wanted
    ]
    if not getattr(module, "peft_config", None):
        module.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names))
    state = get_peft_model_state_dict(module)
    return {key: torch.randn_like(value) * 0.3 for key, value in state.items()}


@lru_cache(maxsize=1)
def _learner(shop: Shop, family: str) -> Any:
    """A pipeline that LoRAs are made of, one after another."""
    return _fresh(shop, family).pipeline


def _save_lora(shop: Shop, family: str, folder: Path, name: str, seed: int) -> Adapter:
    pipeline = _learner(shop, family)
    torch.manual_seed(seed)
    denoiser = "unet" if "unet" in pipeline.components else "transformer"
    layers = {
        f"{denoiser}_lora_layers": _layers(pipeline.components[denoiser], ("to_q", "to_v")),
    }
    if family in TEXTS:
        layers["text_encoder_lora_layers"] = _layers(pipeline.text_encoder, ("q_proj", "v_proj"))
    name = f"{family}_{name}"
    type(pipeline).save_lora_weights(folder, weight_name=f"{name}.safetensors", **layers)
    return Adapter(name=name, digest=file_digest(folder / f"{name}.safetensors"), weight=1.0)


def _with(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"adapters_folder": folder})


@pytest.mark.parametrize("name", WITH_LORA)
def test_adapters_equal_diffusers_and_leave_nothing_behind(
    name: str, shop: Shop, folder: Path
) -> None:
    soft = replace(_save_lora(shop, name, folder, "soft", 1), weight=0.5)
    hard = replace(_save_lora(shop, name, folder, "hard", 2), weight=-0.7)
    model = _fresh(shop, name)
    plain = spec_of(model)
    worn = replace(plain, adapters=(soft, hard))
    settings = _with(shop.settings, folder)
    plain_engine = open_engine(model, plain.group(), settings)
    before = hashes(render(plain_engine, [plain]))
    worn_engine = open_engine(model, worn.group(), settings)
    [result] = render(worn_engine, [worn])

    assert worn_engine.environment.fingerprint() != plain_engine.environment.fingerprint()
    assert [each["digest"] for each in worn_engine.environment.document()["adapters"]] == [
        soft.digest,
        hard.digest,
    ]
    assert hashes([result]) != before
    assert hashes(render(plain_engine, [plain])) == before
    assert hashes(render(worn_engine, [worn])) == hashes([result])

    reference = _fresh(shop, name).pipeline
    reference.set_progress_bar_config(disable=True)
    for adapter in worn.adapters:
        reference.load_lora_weights(
            folder, weight_name=f"{adapter.name}.safetensors", adapter_name=adapter.name
        )
    reference.set_adapters([soft.name, hard.name], [soft.weight, hard.weight])
    expected = PipelineOracle(name, reference).alone(plain)
    assert worst_difference(pixels_of(result), expected) <= 1


@pytest.mark.parametrize("name", ["hunyuan_dit", "pixart_sigma"])
def test_a_pipeline_without_a_loader_says_so(name: str, shop: Shop, folder: Path) -> None:
    model = shop.model(name)
    family = find_family(type(model.pipeline).__name__)
    assert family is not None
    assert not family.lora
    adapter = _save_lora(shop, "flux_dev", folder, "any", 3)
    spec = spec_of(model, adapters=(adapter,))
    with pytest.raises(ModelError, match="diffusers loads no LoRA for"):
        open_engine(model, spec.group(), _with(shop.settings, folder))


def test_an_adapter_of_another_family_does_not_fit(shop: Shop, folder: Path) -> None:
    adapter = _save_lora(shop, "stable_diffusion_3", folder, "other", 4)
    model = _fresh(shop, "chroma")
    spec = spec_of(model, adapters=(adapter,))
    plain = open_engine(model, spec_of(model).group(), shop.settings)
    before = hashes(render(plain, [spec_of(model)]))
    with pytest.raises(ModelError, match="do not fit model chroma"):
        open_engine(model, spec.group(), _with(shop.settings, folder))
    assert hashes(render(plain, [spec_of(model)])) == before


def test_an_adapter_that_widens_a_layer_leaves_nothing_behind(shop: Shop, folder: Path) -> None:
    """As Flux's control LoRAs do, which read a picture beside the latents."""
    model = _fresh(shop, "flux_schnell")
    layer = model.pipeline.transformer.x_embedder
    layers = {
        "transformer.x_embedder.lora_A.weight": torch.randn(2, 2 * layer.in_features),
        "transformer.x_embedder.lora_B.weight": torch.randn(layer.out_features, 2),
    }
    save_file(layers, folder / "wide.safetensors")
    digest = file_digest(folder / "wide.safetensors")
    plain = spec_of(model)
    worn = replace(plain, adapters=(Adapter(name="wide", digest=digest),))
    engine = open_engine(model, plain.group(), shop.settings)
    before = hashes(render(engine, [plain]))
    open_engine(model, worn.group(), _with(shop.settings, folder))
    widened = model.pipeline.transformer.x_embedder.in_features
    assert widened == 2 * layer.in_features
    assert hashes(render(engine, [plain])) == before


@pytest.mark.parametrize("name", ["flux_dev", "latent_consistency"])
def test_embeddings_equal_diffusers(name: str, shop: Shop, tmp_path: Path) -> None:
    torch.manual_seed(1)
    file = tmp_path / "blob.safetensors"
    save_file({"<blob>": torch.randn(2, 32)}, file)
    taught = table_of("taught", shop.saved(name))
    shop.register(taught, f'embeddings = {{ "<blob>" = "{file}" }}')
    model = shop.load("taught")
    spec = spec_of(model, prompt="a <blob> circle")
    [result] = render(open_engine(model, spec.group(), shop.settings), [spec])

    reference = _fresh(shop, name).pipeline
    reference.set_progress_bar_config(disable=True)
    without = PipelineOracle(name, reference).alone(spec)
    reference.load_textual_inversion(str(file), token="<blob>")
    expected = PipelineOracle(name, reference).alone(spec)
    assert worst_difference(pixels_of(result), expected) <= 1
    assert worst_difference(expected, without) > 1


def test_a_pipeline_that_learns_no_tokens_says_so(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "blob.safetensors"
    save_file({"<blob>": torch.randn(1, 32)}, file)
    taught = table_of("taught", shop.saved("sana"))
    shop.register(taught, f'embeddings = {{ "<blob>" = "{file}" }}')
    with pytest.raises(ModelError, match="loads no embeddings for SanaPipeline"):
        shop.load("taught")
