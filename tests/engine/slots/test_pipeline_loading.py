"""Loading a pipeline folder: what is refused, what its digest covers, and what is known of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from imagemill.db.errors import ModelError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.worker.engine.factory import open_engine
from tests.engine.rendering import pixels_of, render
from tests.oracle.registered import Shop, spec_of, table_of

QUICK = "stable_diffusion_3"


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
    # Of these, CLIP alone reads the prompts of one.
    assert facts.window == (77 if name == "latent_consistency" else None)
