"""Files beside a model, as planning sees them: what they are is read from their headers."""

import json

import pytest

from imagemill.db.models import registry as registry_module
from tests.helpers.tensors import write_tensors
from tests.unit.scheduler_jobs.submit.planning.ways import planned, register_models, write_json

WITH_EMBEDDING = """
[models.taught]
source = "guided"
embeddings = { "<a>" = "a.safetensors" }
"""
CONTROLLED = {"model": "sd", "control_image": "edges.png", "controlnet": "canny"}
ADAPTED = {"model": "sd", "reference_image": "edges.png"}


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    register_models(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("file", "row", "complaint"),
    [
        (
            "spots.safetensors",
            {"model": "flux", "adapters": "spots"},
            "adapters: adapter spots: {file}: no LoRA: one tensor, vae.weight; names of a LoRA "
            "have lora_A, lora_down or lora.down; a LoRA file",
        ),
        (
            "canny/diffusion_pytorch_model.safetensors",
            CONTROLLED,
            "controlnet: canny: {file}: no ControlNet: one tensor, vae.weight; one has "
            "controlnet_…; a registered ControlNet",
        ),
        (
            "ip/ip.safetensors",
            ADAPTED,
            "reference_image: plain: {file}: no IP-Adapter: one tensor, vae.weight; one has "
            "image_proj.… or ip_adapter_proj_model.…; an IP-Adapter",
        ),
        (
            "a.safetensors",
            {"model": "taught"},
            "model: 'taught' (model taught: embedding <a>: {file}: vectors of 6 numbers, where the "
            "text encoder has 8); one of",
        ),
    ],
)
def test_a_file_that_is_something_else_is_refused(at_home, tmp_path, file, row, complaint):
    registry = tmp_path / "models.toml"
    registry.write_text(registry.read_text() + WITH_EMBEDDING)
    index = tmp_path / "guided" / "model_index.json"
    encoder = {"text_encoder": ["transformers", "CLIPTextModel"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | encoder))
    write_json(tmp_path / "guided" / "text_encoder" / "config.json", {"hidden_size": 8})
    write_tensors(tmp_path / "a.safetensors", {"a": (1, 8)})
    answer, _ = planned(at_home, tmp_path, row)
    assert answer.code == 0, answer.out + answer.err
    write_tensors(tmp_path / file, {"vae.weight": (2, 6)})
    answer, manifest = planned(at_home, tmp_path, row)
    assert answer.code == 2
    [problem] = answer.json["problems"]
    said = f"{problem['column']}: {problem['found']}; {problem['allowed']}"
    assert said.startswith(complaint.format(file=tmp_path / file))
    assert at_home("submit", manifest, "--json").code == 2


def test_models_says_which_files_are_something_else(at_home, tmp_path):
    told = at_home("models", "--json").json
    before = [each["problem"] for each in (*told["adapters"], *told["ip_adapters"])]
    assert before == [None, None]
    write_tensors(tmp_path / "spots.safetensors", {"vae.weight": (2, 6)})
    (tmp_path / "ip" / "ip.safetensors").write_bytes(b"")
    told = at_home("models", "--json").json
    assert "no LoRA: one tensor, vae.weight" in told["adapters"][0]["problem"]
    assert told["ip_adapters"][0]["problem"].endswith("ip.safetensors: not a safetensors file")


def test_an_adapters_file_is_read_once_for_all_rows(at_home, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(registry_module, "file_digest", lambda file: read.append(file) or "d" * 64)
    manifest = tmp_path / "rows.jsonl"
    row = {"model": "flux", "adapters": [{"name": "spots", "weight": 0.5}]}
    lines = [json.dumps({"prompt": word, **row}) for word in ("red", "green", "blue")]
    manifest.write_text("\n".join(lines))
    answer = at_home("plan", manifest, "--json")
    assert answer.code == 0, answer.out
    assert read == [tmp_path / "spots.safetensors"]
