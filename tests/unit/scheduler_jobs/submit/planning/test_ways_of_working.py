"""ControlNets, reference images and guidance intervals as planning sees them, without torch."""

import json

import pytest
from sqlalchemy import select

from imagemill.db.queries.images import spec_of
from imagemill.db.tables import Image
from tests.unit.scheduler_jobs.submit.planning.ways import planned, register_models


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    register_models(tmp_path, monkeypatch)


FIXED = "fixed_small"


def _dpm(algorithm):
    return {"algorithm_type": algorithm}


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
        (
            {"model": "klein", "guidance_scale": 3.5},
            "guidance_scale: 3.5; 1, or none: klein is distilled, and passes guidance over",
        ),
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
