"""docs/moving.md: its snippets make manifests of other tools' files, and imagemill takes those."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

from imagemill.scheduler_jobs.cli import cli
from tests.helpers.places import ROOT

PAGE = (ROOT / "docs" / "moving.md").read_text("utf-8")

INFOTEXT = (
    "a red circle, (big:1.2)\non two lines\nNegative prompt: blurry, text\n"
    "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 123, Size: 64x64, "
    "Model hash: abcdef0123, Model: shapes64, Version: v1.10.1"
)
INVOKE = {
    "generation_mode": "txt2img",
    "positive_prompt": "a red circle",
    "negative_prompt": "",
    **{"width": 64, "height": 64, "seed": 5, "cfg_scale": 7.5, "steps": 20},
    "scheduler": "dpmpp_2m_k",
    "model": {"key": "k", "name": "shapes64", "base": "sd-1"},
}
WORKFLOW = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            **{"cfg": 8, "denoise": 1, "seed": 8566257, "steps": 20},
            **{"sampler_name": "euler_ancestral", "scheduler": "normal"},
            **{"latent_image": ["5", 0], "model": ["4", 0]},
            **{"negative": ["7", 0], "positive": ["6", 0]},
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 2, "height": 64, "width": 64}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "a red circle"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "bad hands"}},
}


def code_of(section: str) -> str:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python[^\n]*\n(.*?)^```", text, re.M | re.S)[0]


def picture(folder: Path, **texts: str) -> None:
    folder.mkdir()
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (64, 64)).save(folder / "1.png", pnginfo=info)


def planned(section: str) -> dict[str, Any]:
    """What `plan` says of the manifest that the section's code writes."""
    exec(compile(code_of(section), "docs/moving.md", "exec"), {})
    found = CliRunner().invoke(cli, ["plan", "rows.jsonl", "--json"])
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout.splitlines()[-1])
    return {**answer, "fields": {each["column"]: each["field"] for each in answer["columns"]}}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_pictures_of_a1111_become_rows():
    picture(Path("pictures"), parameters=INFOTEXT)
    answer = planned("From AUTOMATIC1111")
    row = json.loads(Path("rows.jsonl").read_text())
    assert row["prompt"] == "a red circle, (big:1.2)\non two lines"
    assert row["negative_prompt"] == "blurry, text"
    asked = {"sampler_name": "DPM++ 2M", "schedule_type": "Karras", "seed": "123", "size": "64x64"}
    assert {name: row[name] for name in asked} == asked
    assert answer["requested"] == 1
    assert answer["fields"]["sd_model"] == "model"


def test_workflows_of_comfyui_become_rows():
    Path("workflows").mkdir()
    Path("workflows/1.json").write_text(json.dumps(WORKFLOW))
    answer = planned("From ComfyUI")
    assert answer["requested"] == 2
    assert answer["fields"]["cfg"] == "guidance_scale"
    assert answer["fields"]["sampler_name"] == "sampler"


def test_pictures_of_invokeai_become_rows():
    picture(Path("pictures"), invokeai_metadata=json.dumps(INVOKE))
    answer = planned("From InvokeAI")
    assert answer["requested"] == 1
    assert answer["fields"]["positive_prompt"] == "prompt"
    assert answer["fields"]["scheduler"] == "sampler"


def test_rows_with_the_names_of_a_script_are_read(monkeypatch: pytest.MonkeyPatch):
    import imagemill

    given: list[Any] = []
    monkeypatch.setattr(imagemill, "run", lambda *args, **options: given.append((args, options)))
    exec(compile(code_of("From a diffusers script"), "docs/moving.md", "exec"), {})
    [((rows, out), options)] = given
    assert (out, options) == ("out", {"samples": 2})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = CliRunner().invoke(cli, ["plan", "rows.jsonl", "--json"])
    columns = {each["column"]: each["field"] for each in json.loads(found.stdout)["columns"]}
    assert columns["num_inference_steps"] == "steps"
