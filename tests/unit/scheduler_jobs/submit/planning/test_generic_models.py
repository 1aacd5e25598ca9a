"""Generic models as planning sees them: from their configuration files, without torch."""

import json

import pytest
from sqlalchemy import select

from imagemill.db.broker import wake_ups
from imagemill.db.tables import Image

CONFIGS = {
    "model_index.json": {
        "_class_name": "QwenImagePipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "safety_checker": [None, None],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    },
    "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "transformer/config.json": {"patch_size": 2, "in_channels": 64},
    "vae/config.json": {"temperal_downsample": [False, True, True], "z_dim": 16},
}


class NoBroker:
    def __init__(self, settings):
        pass

    def publish(self, route, count=1):
        pass

    def close(self):
        pass


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    monkeypatch.setattr(wake_ups, "Tokens", NoBroker)
    for name, document in CONFIGS.items():
        file = tmp_path / "qwen" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
    file = tmp_path / "models.toml"
    file.write_text(
        '[models.qwen]\nsource = "qwen"\nkind = "generic"\n'
        "defaults = { steps = 9, guidance_scale = 0.0 }\n"
    )
    monkeypatch.setenv("IMAGEMILL_MODELS", str(file))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(tmp_path / "cache"))


def images(at_home, mill, tmp_path, *options):
    manifest = tmp_path / "prompts.txt"
    manifest.write_text("a red circle\n")
    answer = at_home("submit", manifest, "--model", "qwen", "--json", *options)
    assert answer.code == 0, answer.err
    with mill.database.reading() as session:
        return list(session.scalars(select(Image)))


def test_its_own_sampler_and_size_are_the_default(at_home, mill, tmp_path):
    [image] = images(at_home, mill, tmp_path)
    assert (image.sampler, image.steps, image.guidance_scale) == ("own", 9, 0.0)
    assert (image.width, image.height) == (1024, 1024)


def test_a_sampler_may_be_named(at_home, mill, tmp_path):
    [image] = images(at_home, mill, tmp_path, "--sampler", "Flow Euler", "--size", "1328x1328")
    assert (image.sampler, image.width) == ("flow_euler", 1328)


def test_a_size_is_whole_patches(at_home, tmp_path):
    manifest = tmp_path / "prompts.csv"
    manifest.write_text("prompt,width,model\na red circle,1000,qwen\n")
    answer = at_home("plan", manifest, "--json")
    assert answer.code == 2
    assert "a multiple of 16" in answer.out


def test_the_index_counts_among_what_decides_pixels(at_home, mill, tmp_path):
    images(at_home, mill, tmp_path)
    index = tmp_path / "qwen" / "model_index.json"
    index.write_text(index.read_text().replace("QwenImagePipeline", "SanaPipeline"))
    both = images(at_home, mill, tmp_path, "--name", "again")
    assert len({image.group_id for image in both}) == 2
