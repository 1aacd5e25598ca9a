"""SDXL with a refiner as planning sees it: from the configuration files, without torch."""

import json

import pytest
from sqlalchemy import select

from imagemill.db.broker import wake_ups
from imagemill.db.tables import Image
from tests.unit.scheduler_jobs.submit.planning.test_generic_models import NoBroker

CONFIGS = {
    "base/model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "base/scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler"},
    "base/unet/config.json": {"sample_size": 128, "in_channels": 4},
    "base/vae/config.json": {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4},
    "refiner/unet/config.json": {"sample_size": 128, "in_channels": 4},
}

REGISTRY = """
[models.base]
source = "base"
[models.refined]
source = "base"
parts = { refiner = { source = "refiner", subfolder = "unet" } }
[models.late]
source = "base"
parts = { refiner = { source = "refiner", subfolder = "unet" } }
defaults = { refiner_start = 0.9 }
"""


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    monkeypatch.setattr(wake_ups, "Tokens", NoBroker)
    for name, document in CONFIGS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
    file = tmp_path / "models.toml"
    file.write_text(REGISTRY)
    monkeypatch.setenv("IMAGEMILL_MODELS", str(file))


@pytest.mark.parametrize(
    ("model", "options", "start"),
    [
        ("refined", (), 0.8),
        ("refined", ("--refiner-start", "0.6"), 0.6),
        ("refined", ("--refiner-start", "1"), None),
        ("late", (), 0.9),
        ("base", (), None),
        ("base", ("--refiner-start", "1"), None),
    ],
)
def test_a_model_with_a_refiner_uses_it(at_home, mill, tmp_path, model, options, start):
    manifest = tmp_path / "prompts.txt"
    manifest.write_text("a red circle\n")
    answer = at_home("submit", manifest, "--model", model, "--json", *options)
    assert answer.code == 0, answer.err
    with mill.database.reading() as session:
        [image] = session.scalars(select(Image))
    assert image.options.get("refiner_start") == start


@pytest.mark.parametrize(
    ("columns", "found", "allowed"),
    [
        ({"model": "base", "refiner_start": 0.5}, "0.5", "1, or none: base has no refiner"),
        (
            {"model": "refined", "denoising_end": 0.5, "init_image": "a.png", "mask": "a.png"},
            "0.5",
            "1, or none: nothing is refined within a mask",
        ),
        ({"model": "refined", "Refiner switch at": 0}, "0", "above 0"),
        ({"model": "refined", "refiner_start": "late"}, "late", "number"),
    ],
)
def test_a_refiner_that_there_is_not_is_a_bad_row(at_home, tmp_path, columns, found, allowed):
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"prompt": "a red circle"} | columns))
    answer = at_home("plan", manifest, "--json")
    assert answer.code == 2
    [problem] = json.loads(answer.out)["problems"]
    assert problem["column"] in ("refiner_start", *columns)
    assert found in problem["found"]
    assert allowed in problem["allowed"]
