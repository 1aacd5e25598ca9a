"""A registry with models of every way of working, and a manifest of one row that is planned."""

import json

from PIL import Image as Pillow

from imagemill.db.broker import wake_ups
from tests.helpers.tensors import CONTROLNET, IP_ADAPTER, LORA, write_tensors
from tests.unit.scheduler_jobs.submit.planning.test_generic_models import NoBroker

KINDS = {
    "sd": "StableDiffusionPipeline",
    "flux": "FluxPipeline",
    "kontext": "FluxKontextPipeline",
    "adapted": "FluxKontextPipeline",
    "edit": "QwenImageEditPipeline",
    "canny_model": "FluxControlPipeline",
    "sana": "SanaPipeline",
    "pixart": "PixArtSigmaPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "klein": "Flux2KleinPipeline",
    "pag": "StableDiffusion3PAGPipeline",
}
REGISTRY = """
[models.guided]
source = "guided"
[models.ends]
source = "guided"
parts.scheduler = { class = "UniPCMultistepScheduler", final_sigmas_type = "zero" }
[models.late]
source = "sd"
kind = "generic"
defaults = { guidance_end = 0.4, strength = 0.6 }
[controlnets.canny]
source = "canny"
[controlnets.flux_canny]
source = "flux_canny"
[controlnets.elsewhere]
source = "elsewhere"
digest = "%s"
[ip_adapters.plain]
source = "ip"
weights = "ip.safetensors"
[adapters]
spots = "spots.safetensors"
""" % ("e" * 64)


def register_models(tmp_path, monkeypatch):
    """Write the registry, its models' configurations and an input picture into the folder."""
    monkeypatch.setattr(wake_ups, "Tokens", NoBroker)
    text = REGISTRY
    for name, class_name in {**KINDS, "guided": "StableDiffusionPipeline"}.items():
        unet = "unet" if class_name.startswith("StableDiffusionPipeline") else "transformer"
        write_json(
            tmp_path / name / "model_index.json",
            {
                "_class_name": class_name,
                unet: ["diffusers", "Some"],
                "scheduler": ["diffusers", "S"],
                "is_distilled": name == "klein",
            },
        )
        config = {"sample_size": 8, "in_channels": 4, "guidance_embeds": name == "kontext"}
        write_json(tmp_path / name / unet / "config.json", config)
        flow = class_name.startswith(("Flux", "StableDiffusion3"))
        scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler" if flow else "S"}
        write_json(tmp_path / name / "scheduler" / "scheduler_config.json", scheduler)
        if name in KINDS:
            text += f'[models.{name}]\nsource = "{name}"\nkind = "generic"\n'
            text += 'ip_adapter = "plain"\n' if name in ("sd", "flux", "adapted") else ""
    for name, class_name in {
        "canny": "ControlNetModel",
        "flux_canny": "FluxControlNetModel",
    }.items():
        write_json(tmp_path / name / "config.json", {"_class_name": class_name})
        write_tensors(tmp_path / name / "diffusion_pytorch_model.safetensors", CONTROLNET)
    write_tensors(tmp_path / "spots.safetensors", LORA)
    write_tensors(tmp_path / "ip" / "ip.safetensors", IP_ADAPTER)
    (tmp_path / "inputs").mkdir()
    Pillow.new("RGB", (64, 64)).save(tmp_path / "inputs" / "edges.png")
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setenv("IMAGEMILL_MODELS", str(tmp_path / "models.toml"))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGEMILL_INPUTS_FOLDER", str(tmp_path / "inputs"))


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def planned(at_home, tmp_path, row):
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"prompt": "a red circle", **row}) + "\n")
    return at_home("plan", manifest, "--json"), manifest
