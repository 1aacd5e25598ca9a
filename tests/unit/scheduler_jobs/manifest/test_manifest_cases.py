"""Small files shaped like what public tools write, each with what is made of it."""

from typing import Any

from imagemill.scheduler_jobs.manifest import Problem
from imagemill.scheduler_jobs.manifest.columns import EXTRA
from tests.unit.manifests import DATA, good_rows, problems, read

CASES = DATA / "cases"


def settings(name: str, **options: Any) -> list[dict[str, Any]]:
    return [row.parameters.settings() for row in good_rows(CASES / name, **options)]


def test_i2p_s_columns_are_used_by_map_or_kept_by_extra() -> None:
    (line,) = problems(CASES / "i2p_columns.csv")
    for name in ("sd_seed", "sd_guidance_scale", "sd_image_width", "sd_image_height"):
        assert f'"{name}" looks like' in line
    mapping = {
        "sd_seed": "seed",
        "sd_guidance_scale": "guidance_scale",
        "sd_image_width": "width",
        "sd_image_height": "height",
    }
    assert settings("i2p_columns.csv", columns=mapping) == [
        {"seed": 4261553411, "guidance_scale": 7.0, "width": 128, "height": 64}
    ]
    (row,) = good_rows(CASES / "i2p_columns.csv", columns={"sd_*": EXTRA})
    assert set(row.extras) == set(mapping)


def test_kohya_s_names_are_used() -> None:
    assert settings("kohya_prompts.json") == [
        {
            "negative_prompt": "blurry",
            "width": 128,
            "height": 64,
            "seed": 1,
            "steps": 7,
            "guidance_scale": 3.0,
            "sampler": "euler_a",
        }
    ]


def test_a1111_s_settings_that_are_not_here_are_refused() -> None:
    refused = {line.split(": ")[1] for line in problems(CASES / "a1111_api.jsonl")}
    assert refused >= {"restore_faces", "tiling", "subseed", "styles", "enable_hr"}
    (found,) = settings("a1111_api.jsonl", columns=dict.fromkeys(refused, EXTRA))
    assert found == {"seed": 1, "steps": 7, "samples": 4, "sampler": "euler_a"}


def test_a_blank_that_does_not_break_is_a_blank() -> None:
    assert settings("nbsp_header.csv") == [{"seed": 5, "guidance_scale": 3.0}]


def test_a_mapping_of_no_key_is_refused_in_json_lines() -> None:
    mapping = {"cfgScale": "guidance_scale"}
    (line,) = problems(CASES / "map_typo.jsonl", columns=mapping)
    assert (
        line == 'map_typo.jsonl: --map names "cfgScale", which is no column; a key that a row has'
    )


def test_sizes_are_read_as_tools_write_them() -> None:
    found = read(CASES / "size2.csv")
    sizes = [
        None if isinstance(row, Problem) else (row.parameters.width, row.parameters.height)
        for row in found
    ]
    assert sizes == [(128, 64)] * 5 + [None] * 2
