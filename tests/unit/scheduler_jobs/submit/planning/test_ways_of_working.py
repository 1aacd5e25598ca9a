"""ControlNets, reference images and guidance intervals as planning sees them, without torch."""

import json

import pytest
from PIL import Image as Pillow
from sqlalchemy import select

from imagemill.db.broker import wake_ups
from imagemill.db.models import registry as registry_module
from imagemill.db.queries.images import spec_of
from imagemill.db.tables import Image
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


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    monkeypatch.setattr(wake_ups, "Tokens", NoBroker)
    text = REGISTRY
    for name, class_name in {**KINDS, "guided": "StableDiffusionPipeline"}.items():
        unet = "unet" if class_name.startswith("StableDiffusionPipeline") else "transformer"
        _write(
            tmp_path / name / "model_index.json",
            {
                "_class_name": class_name,
                unet: ["diffusers", "Some"],
                "scheduler": ["diffusers", "S"],
                "is_distilled": name == "klein",
            },
        )
        config = {"sample_size": 8, "in_channels": 4, "guidance_embeds": name == "kontext"}
        _write(tmp_path / name / unet / "config.json", config)
        flow = class_name.startswith(("Flux", "StableDiffusion3"))
        scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler" if flow else "S"}
        _write(tmp_path / name / "scheduler" / "scheduler_config.json", scheduler)
        if name in KINDS:
            text += f'[models.{name}]\nsource = "{name}"\nkind = "generic"\n'
            text += 'ip_adapter = "plain"\n' if name in ("sd", "flux", "adapted") else ""
    for name, class_name in {
        "canny": "ControlNetModel",
        "flux_canny": "FluxControlNetModel",
    }.items():
        _write(tmp_path / name / "config.json", {"_class_name": class_name})
        write_tensors(tmp_path / name / "diffusion_pytorch_model.safetensors", CONTROLNET)
    write_tensors(tmp_path / "spots.safetensors", LORA)
    write_tensors(tmp_path / "ip" / "ip.safetensors", IP_ADAPTER)
    (tmp_path / "inputs").mkdir()
    Pillow.new("RGB", (64, 64)).save(tmp_path / "inputs" / "edges.png")
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setenv("IMAGEMILL_MODELS", str(tmp_path / "models.toml"))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGEMILL_INPUTS_FOLDER", str(tmp_path / "inputs"))


FIXED = "fixed_small"


def _write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def _dpm(algorithm):
    return {"algorithm_type": algorithm}


def planned(at_home, tmp_path, row):
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"prompt": "a red circle", **row}) + "\n")
    return at_home("plan", manifest, "--json"), manifest


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"model": "guided", "control_image": "edges.png", "controlnet": "canny"},
            'control_image: edges.png; none, unless its kind is "generic" in the registry',
        ),
        (
            {"model": "guided", "init_image": "edges.png", "strength": 0.03},
            "strength: 0.03 with steps = 25; at least 0.04, so that one step is left",
        ),
        (
            {"model": "guided", "init_image": "edges.png", "steps": 1},
            "strength: 0.8, the usual one, with steps = 1; at least 1, so that one step is left",
        ),
        (
            {"model": "guided", "sampler": "dpmpp_2m", "sampler_options": _dpm("sde-dpmsolver")},
            "sampler_options: dpmpp_2m: algorithm_type = 'sde-dpmsolver' with final_sigmas_type = "
            "'zero'; algorithm_type: dpmsolver++, sde-dpmsolver++; or final_sigmas_type: sigma_min",
        ),
        (
            {"model": "ends", "sampler": "dpmpp_2s", "sampler_options": _dpm("dpmsolver")},
            "with final_sigmas_type = 'zero'",
        ),
        (
            {
                "model": "guided",
                "sampler": "euler_karras",
                "sampler_options": {"use_beta_sigmas": True},
            },
            "euler_karras: use_karras_sigmas and use_beta_sigmas together; one of them",
        ),
        (
            {"model": "guided", "sampler": "euler", "eta": 0.5},
            "eta: 0.5 with euler; 0, or none: DDIM and TCD add such noise",
        ),
        (
            {"model": "guided", "sampler": "lcm", "steps": 60},
            "steps: lcm: steps = 60 with original_inference_steps = 50; steps: at most 50",
        ),
        (
            {"model": "guided", "sampler": "ddim", "sampler_options": {"beta_end": 2.0}},
            "ddim: beta_start = 0.0001 and beta_end = 2.0; 0 < start <= end < 1",
        ),
        ({"model": "flux", "clip_skip": 2}, "clip_skip: 2; none: FluxPipeline of flux takes none"),
        ({"model": "sana", "guidance_rescale": 0.5}, "none: SanaPipeline of sana takes none"),
        ({"model": "flux", "eta": 0.5}, "eta: 0.5 with own; 0, or none: DDIM and TCD"),
        (
            {"model": "sd", "sampler": "ddim", "eta": 0.5, "clip_skip": 2, "guidance_rescale": 1.5},
            "guidance_rescale: 1.5; a number from 0 to 1",
        ),
        (
            {"model": "kontext", "negative_prompt": "blurry", "reference_image": "edges.png"},
            "negative_prompt: a text; none: FluxKontextPipeline of kontext takes none",
        ),
        (
            {"model": "sd", "guidance_rescale": 0.5, "init_image": "edges.png"},
            "none: StableDiffusionImg2ImgPipeline of sd takes none",
        ),
        (
            {
                "model": "guided",
                "sampler": "unipc",
                "sampler_options": {"use_dynamic_shifting": True},
            },
            "use_dynamic_shifting = True, which would change nothing; use_dynamic_shifting: False, "
            "or none: for flow-matching samplers",
        ),
        (
            {"model": "flux", "sampler": "flow_dpmpp_2m"},
            "use_dynamic_shifting = False: diffusers' FluxPipeline always gives a shift; "
            "use_dynamic_shifting: true, or flow_euler",
        ),
        (
            {"model": "guided", "sampler": "dpmpp_2m", "sampler_options": {"variance_type": FIXED}},
            "dpmpp_2m: variance_type, which this sampler does not take; one of",
        ),
        (
            {"model": "guided", "sampler": "euler", "sampler_options": {"steps_offset": 1}},
            "steps_offset = 1, which would change nothing; steps_offset: 0, or none, or "
            "timestep_spacing: leading",
        ),
        (
            {"model": "flux", "sampler": "flow_unipc", "sampler_options": {"beta_start": 0.001}},
            "beta_start = 0.001, which would change nothing; beta_start: none: the sampler takes "
            "no betas",
        ),
        (
            {"model": "guided", "sampler": "ddim", "sampler_options": {"sample_max_value": 2.0}},
            "sample_max_value = 2.0, which would change nothing; sample_max_value: 1.0, or none, "
            "or thresholding: true",
        ),
        (
            {"model": "shapes64", "guidance_start": 0.9, "guidance_end": 0.95, "steps": 4},
            "guidance_end: guidance from 0.9 to 0.95 of 4 steps; an interval with a step in it",
        ),
        ({"model": "shapes64", "clip_skip": 9}, "clip_skip: 9; 1 to 2, the layers of the text enc"),
        (
            {"model": "pixart", "adapters": "spots"},
            "adapters: spots; none: diffusers loads no LoRA for PixArtSigmaPipeline of pixart",
        ),
        (
            {"model": "sana", "init_image": "edges.png"},
            "init_image: edges.png; none: SanaPipeline takes no init image",
        ),
        (
            {"model": "kontext", "init_image": "edges.png"},
            "takes no init image, but a reference_image",
        ),
        (
            {"model": "flux", "sampler": "flow_heun"},
            "sampler: flow_heun; own or flow_dpmpp_2m or flow_euler or flow_unipc: diffusers' "
            "FluxPipeline works with no other",
        ),
        (
            {"model": "flux", "sampler": "flow_dpmpp_2m", "init_image": "edges.png"},
            "own or flow_euler or flow_unipc: diffusers' FluxImg2ImgPipeline works with no other",
        ),
        (
            {"model": "sd3", "sampler": "ddim"},
            "sampler: ddim; flow-matching samplers, or own, for sd3",
        ),
        (
            {"model": "sd", "sampler": "flow_euler"},
            "sampler: flow_euler; samplers that are not flow-matching, or own, for sd",
        ),
        ({"model": "edit"}, "reference_image: none; the picture that QwenImageEditPipeline is to"),
        ({"model": "canny_model"}, "control_image: none; one: FluxControlPipeline always reads"),
        ({"model": "sd", "control_image": "edges.png"}, "controlnet: none; the ControlNet for"),
        ({"model": "sd", "controlnet": "canny"}, "controlnet: no control_image; a control image"),
        (
            {"model": "sd", "control_image": "edges.png", "controlnet": "flux_canny"},
            "controlnet: flux_canny, a FluxControlNetModel; a ControlNetModel for sd",
        ),
        (
            {"model": "sd", "control_image": "edges.png", "controlnet": "none_such"},
            "no ControlNet is called 'none_such'; registered: canny, flux_canny, elsewhere",
        ),
        (
            {"model": "sana", "reference_image": "edges.png"},
            "reference_image: edges.png; none: diffusers has no IP-Adapter for SanaPipeline",
        ),
        (
            {"model": "sd3", "reference_image": "edges.png"},
            'reference_image: edges.png; none, unless sd3 has ip_adapter = "NAME" in the registry',
        ),
        (
            {
                "model": "flux",
                "controlnet": "flux_canny",
                **dict.fromkeys(("init_image", "control_image", "reference_image"), "edges.png"),
            },
            "none beside control_image and init_image: FluxControlNetImg2ImgPipeline has no IP",
        ),
        (
            {"model": "edit", "reference_image": "edges.png", "reference_scale": 0.5},
            "reference_scale: 0.5; 1, or none: QwenImageEditPipeline has no scale",
        ),
        (
            {"model": "adapted", "reference_image": "edges.png"},
            "reference_image: edges.png; none while adapted has an ip_adapter: FluxKontextPipeline",
        ),
        ({"model": "sd", "control_image": "none.png", "controlnet": "canny"}, "none.png"),
        ({"model": "kontext", "guidance_end": 0.5}, "guidance_end: 0.5; 1, or none: kontext has"),
        ({"model": "late", "guidance_start": 0.6}, "guidance from 0.6 to 0.4; a start before"),
        ({"model": "klein", "guidance_end": 0.5}, "guidance_end: 0.5; 1, or none: klein has"),
        ({"model": "pag"}, "StableDiffusion3PAGPipeline changes the denoiser during a call"),
        ({"model": "sd", "guidance_start": 0.5, "guidance_end": 0.5}, "guidance from 0.5 to 0.5"),
        (
            {"model": "sd3", "init_image": "edges.png", "control_image": "edges.png"},
            "init_image: edges.png; none beside control_image: diffusers has no such pipeline",
        ),
        (
            {"model": "sd", "init_image": "edges.png", "strength": 0.01},
            "strength: 0.01 with steps = 25; at least 0.04, so that one step is left",
        ),
    ],
)
def test_what_a_model_does_not_take_is_refused(at_home, tmp_path, row, complaint):
    answer, manifest = planned(at_home, tmp_path, row)
    assert answer.code == 2
    [problem] = json.loads(answer.out)["problems"]
    assert (problem["file"], problem["row_number"]) == (str(manifest), 1)
    said = f"{problem['column']}: {problem['found']}; {problem['allowed']}"
    assert complaint in said


def test_what_it_takes_becomes_part_of_the_specification(at_home, mill, tmp_path):
    row = {
        "prompt": "a red circle",
        "model": "sd",
        "control image": "edges.png",
        "controlnet_model": "canny",
        "controlnet_conditioning_scale": 0.5,
        "ip_adapter_image": "edges.png",
        "reference_scale": 0.25,
        "guidance_start": 0.1,
        "guidance_end": 0.6,
    }
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps(row) + "\n")
    answer = at_home("submit", manifest, "--json")
    assert answer.code == 0, answer.err
    with mill.database.reading() as session:
        [image] = session.scalars(select(Image))
        spec = spec_of(image, "a" * 64)
    assert spec.controlnet is not None
    assert spec.ip_adapter is not None
    assert (spec.controlnet.name, spec.ip_adapter.name) == ("canny", "plain")
    assert spec.control_image == spec.reference_image is not None
    assert (spec.control_scale, spec.reference_scale) == (0.5, 0.25)
    assert (spec.guidance_start, spec.guidance_end) == (0.1, 0.6)


WITH_EMBEDDING = """
[models.taught]
source = "guided"
embeddings = { "<a>" = "a.safetensors" }
"""
CONTROLLED = {"model": "sd", "control_image": "edges.png", "controlnet": "canny"}
ADAPTED = {"model": "sd", "reference_image": "edges.png"}


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
    _write(tmp_path / "guided" / "text_encoder" / "config.json", {"hidden_size": 8})
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


def test_a_models_strength_is_for_rows_with_a_picture(at_home, mill, tmp_path):
    manifest = tmp_path / "rows.csv"
    manifest.write_text("prompt,model,init_image\na,late,\na,late,edges.png\n")
    answer = at_home("submit", manifest, "--json")
    assert answer.code == 0, answer.err
    with mill.database.reading() as session:
        images = session.scalars(select(Image).order_by(Image.id))
        strengths = [spec_of(image, "a" * 64).strength for image in images]
    assert strengths == [None, 0.6]


@pytest.mark.parametrize("model", ["sd", "flux"])
def test_an_init_image_is_taken_where_diffusers_has_a_pipeline(at_home, tmp_path, model):
    answer, _ = planned(at_home, tmp_path, {"model": model, "init_image": "edges.png"})
    assert answer.code == 0, answer.out


def test_a_controlnet_of_other_machines_is_known_by_its_digest(at_home, tmp_path):
    row = {"model": "sd", "control_image": "edges.png", "controlnet": "elsewhere"}
    answer, _ = planned(at_home, tmp_path, row)
    assert answer.code == 0, answer.out


def test_without_guidance_an_interval_makes_no_other_request(at_home, mill, tmp_path):
    manifest = tmp_path / "rows.csv"
    manifest.write_text("prompt,model,guidance_scale,guidance_end,seed\na,sd,1,,1\na,sd,1,0.5,1\n")
    answer = at_home("submit", manifest, "--json")
    assert answer.code == 0, answer.err
    with mill.database.reading() as session:
        first, second = session.scalars(select(Image))
    assert first.request_key == second.request_key
