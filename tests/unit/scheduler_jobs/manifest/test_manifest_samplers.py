"""The names that other tools give samplers and schedules."""

from pathlib import Path

import pytest

from tests.unit.manifests import good_rows, jsonl, problems


@pytest.mark.parametrize(
    ("sampler", "schedule", "read"),
    [
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("dpmpp_2m", "karras", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "karras", "dpmpp_2m_karras"),
        ("Euler a", "Automatic", "euler_a"),
        ("euler", "normal", "euler"),
    ],
)
def test_a_sampler_and_its_schedule_are_one_sampler(
    sampler: str, schedule: str, read: str, tmp_path: Path
) -> None:
    for names in (("sampler_name", "scheduler"), ("Sampler", "Schedule type")):
        for order in (1, -1):
            cells = [("prompt", "a"), *zip(names, (sampler, schedule), strict=True)]
            row: dict[str, object] = dict(cells[::order])
            (found,) = good_rows(jsonl(tmp_path, row))
            assert found.parameters.sampler == read
    (line,) = problems(jsonl(tmp_path, {"prompt": "a", "sampler": sampler, "scheduler": "turbo"}))
    assert line.startswith('rows.jsonl:1: scheduler: "turbo" with sampler')


def test_a1111_s_automatic_schedule_is_what_it_takes_there(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "Sampler": sampler, "Schedule type": "Automatic"}
        for sampler in ("DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "Euler", "UniPC")
    ]
    found = good_rows(jsonl(tmp_path, *rows))
    assert [row.parameters.sampler for row in found] == [
        *("dpmpp_2m_karras", "dpmpp_2m_sde_exponential", "dpmpp_sde_karras", "euler", "unipc")
    ]


def test_a1111_s_sampler_index_is_used_where_no_sampler_name_is_given(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "a", "sampler_name": "Euler a", "sampler_index": "Euler"},
        {"prompt": "b", "sampler_name": None, "sampler_index": "Heun", "scheduler": "Karras"},
    ]
    found = good_rows(jsonl(tmp_path, *rows))
    assert [row.parameters.sampler for row in found] == ["euler_a", "heun_karras"]


SAMPLERS_OF: dict[str, dict[str, str]] = {
    "A1111": {
        **{"DPM++ 2M Karras": "dpmpp_2m_karras", "DPM++ SDE": "dpmpp_sde", "Euler a": "euler_a"},
        **{"DPM++ 2M SDE Exponential": "dpmpp_2m_sde_exponential", "Heun": "heun", "LMS": "lms"},
        **{"DPM2": "kdpm2", "DPM2 a Karras": "kdpm2_a_karras", "DDIM": "ddim", "PLMS": "pndm"},
        **{"UniPC": "unipc", "LCM": "lcm", "DPM++ 3M SDE": "dpmpp_3m_sde"},
        **{"k_euler_a": "euler_a", "k_euler_ancestral": "euler_a", "k_euler": "euler"},
        **{"k_dpm_2_a": "kdpm2_a", "k_dpm_2_ka": "kdpm2_karras", "k_lms_ka": "lms_karras"},
        **{"k_dpmpp_2m_ka": "dpmpp_2m_karras", "k_dpmpp_2m_sde_ka": "dpmpp_2m_sde_karras"},
    },
    "ComfyUI and SwarmUI": {
        **{"euler": "euler", "euler_ancestral": "euler_a", "heun": "heun", "lms": "lms"},
        **{"dpm_2": "kdpm2", "dpm_2_ancestral": "kdpm2_a", "dpmpp_sde": "dpmpp_sde"},
        **{"dpmpp_sde_gpu": "dpmpp_sde", "dpmpp_2m": "dpmpp_2m", "dpmpp_2m_sde": "dpmpp_2m_sde"},
        **{"dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "dpmpp_2m_sde_heun": "dpmpp_2m_sde_heun"},
        **{"dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_heun", "dpmpp_3m_sde": "dpmpp_3m_sde"},
        **{"dpmpp_3m_sde_gpu": "dpmpp_3m_sde", "ddpm": "ddpm", "lcm": "lcm", "deis": "deis"},
        **{"sa_solver": "sa_solver", "ddim": "ddim", "uni_pc": "unipc", "uni_pc_bh2": "unipc"},
    },
    "InvokeAI": {
        **{"ddim": "ddim", "ddpm": "ddpm", "deis": "deis", "deis_k": "deis_karras", "lms": "lms"},
        **{"lms_k": "lms_karras", "pndm": "pndm", "heun": "heun", "heun_k": "heun_karras"},
        **{"euler": "euler", "euler_k": "euler_karras", "euler_a": "euler_a", "kdpm_2": "kdpm2"},
        **{"kdpm_2_k": "kdpm2_karras", "kdpm_2_a": "kdpm2_a", "kdpm_2_a_k": "kdpm2_a_karras"},
        **{"dpmpp_2s": "dpmpp_2s", "dpmpp_2s_k": "dpmpp_2s_karras", "dpmpp_2m": "dpmpp_2m"},
        **{"dpmpp_2m_k": "dpmpp_2m_karras", "dpmpp_2m_sde": "dpmpp_2m_sde"},
        **{"dpmpp_2m_sde_k": "dpmpp_2m_sde_karras", "dpmpp_sde": "dpmpp_sde"},
        **{"dpmpp_sde_k": "dpmpp_sde_karras", "unipc": "unipc", "unipc_k": "unipc_karras"},
        **{"lcm": "lcm", "tcd": "tcd", "k_dpmpp_2": "dpmpp_2m", "plms": "pndm"},
    },
    "Fooocus": {"dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "uni_pc": "unipc", "tcd": "tcd"},
    "kohya": {
        **{"ddim": "ddim", "pndm": "pndm", "lms": "lms", "euler": "euler", "euler_a": "euler_a"},
        **{"heun": "heun", "dpm_2": "kdpm2", "dpm_2_a": "kdpm2_a", "dpmsolver++": "dpmpp_2m"},
        **{"dpmsingle": "dpmpp_2s", "k_lms": "lms", "k_euler": "euler", "k_euler_a": "euler_a"},
        **{"k_dpm_2": "kdpm2", "k_dpm_2_a": "kdpm2_a"},
    },
    "diffusers": {
        "DPMSolverMultistepScheduler": "dpmpp_2m",
        "EulerAncestralDiscreteScheduler": "euler_a",
        "KDPM2AncestralDiscreteScheduler": "kdpm2_a",
        "UniPCMultistepScheduler": "unipc",
    },
}


@pytest.mark.parametrize("tool", SAMPLERS_OF)
def test_the_samplers_of_other_tools(tool: str, tmp_path: Path) -> None:
    names = SAMPLERS_OF[tool]
    rows = good_rows(jsonl(tmp_path, *({"prompt": "a", "sampler": name} for name in names)))
    assert [row.parameters.sampler for row in rows] == list(names.values())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dpmpp_2s_ancestral", "dpmpp_2s"),
        ("DPM++ 2S a", "dpmpp_2s"),
        ("DPM++ 2S a Karras", "dpmpp_2s_karras"),
        ("dpm_fast", "kdpm2"),
        ("DPM adaptive", "kdpm2"),
        ("k_dpm_adaptive", "kdpm2"),
        ("euler_cfg_pp", "euler"),
        ("heunpp2", "heun"),
        ("dpmpp_3m_k", "dpmpp_2m_karras"),
        ("res_multistep", None),
        ("ipndm_v", None),
    ],
)
def test_a_sampler_that_is_not_here_is_refused_in_one_line(
    name: str, near: str | None, tmp_path: Path
) -> None:
    nearest = f"{near} is the nearest; " if near else ""
    assert problems(jsonl(tmp_path, {"prompt": "a", "sampler": name})) == [
        f'rows.jsonl:1: sampler: "{name}", a sampler that imagemill does not have; '
        f"{nearest}imagemill samplers lists those that it has"
    ]


@pytest.mark.parametrize(
    ("sampler", "schedule", "read"),
    [
        ("euler", "beta", "euler_beta"),
        ("dpmpp_2m_sde_gpu", "exponential", "dpmpp_2m_sde_exponential"),
        ("ddim", "ddim_uniform", "ddim"),
        ("lcm", "lcm", "lcm"),
        ("DPM++ 2M", "Uniform", "dpmpp_2m"),
        ("dpm_2", "karras", "kdpm2_karras"),
        ("euler", "sgm_uniform", None),
        ("dpmpp_2m", "SGM Uniform", None),
        ("euler", "simple", None),
        ("euler", "kl_optimal", None),
        ("dpmpp_2m", "Align Your Steps", None),
        ("euler_ancestral", "karras", None),
    ],
)
def test_the_schedules_of_other_tools(
    sampler: str, schedule: str, read: str | None, tmp_path: Path
) -> None:
    path = jsonl(tmp_path, {"prompt": "a", "sampler_name": sampler, "scheduler": schedule})
    if read is None:
        (line,) = problems(path)
        assert line.startswith(f'rows.jsonl:1: scheduler: "{schedule}" with sampler "{sampler}"; ')
    else:
        assert [row.parameters.sampler for row in good_rows(path)] == [read]
