"""The prompt sets that people have are manifests as they are."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagemill.scheduler_jobs.manifest import ManifestRow, Parameters
from imagemill.scheduler_jobs.manifest.columns.layout import EXTRA
from tests.unit.manifests import (
    DRAWBENCH,
    GENEVAL,
    LIMITS,
    PARTI_PROMPTS,
    good_rows,
    problems,
)

PROMPTS = PARTI_PROMPTS.parent
I2P_COLUMNS = {
    "sd_seed": "seed",
    "sd_guidance_scale": "guidance_scale",
    "sd_image_width": "width",
    "sd_image_height": "height",
}


def test_parti_prompts_is_read_unchanged() -> None:
    rows = good_rows(PARTI_PROMPTS)
    lines = PARTI_PROMPTS.read_text(encoding="utf-8").split("\n")[1:-1]
    assert len(rows) == 1632
    assert [row.verbatim for row in rows] == lines
    assert [row.prompt for row in rows] == [line.split("\t")[0] for line in lines]
    assert sum('"' in row.verbatim for row in rows) == 28
    assert all(list(row.extras) == ["Category", "Challenge", "Note"] for row in rows)
    assert all(not row.parameters.settings() and row.key is None for row in rows)
    assert [row.number for row in rows] == list(range(1, 1633))
    assert [row.line for row in rows] == list(range(2, 1634))


def test_geneval_is_read_unchanged() -> None:
    rows = good_rows(GENEVAL)
    lines = GENEVAL.read_text(encoding="utf-8").splitlines()
    assert len(rows) == 553
    for row, line in zip(rows, lines, strict=True):
        document = json.loads(line)
        assert row.verbatim == line
        assert row.prompt == document.pop("prompt")
        assert row.extras == document
    assert sum("exclude" in row.extras for row in rows) > 0


def test_a_drawbench_shaped_table_is_read_unchanged() -> None:
    with DRAWBENCH.open(encoding="utf-8", newline="") as stream:
        expected = list(csv.DictReader(stream))
    rows = good_rows(DRAWBENCH)
    assert len(rows) == 8
    assert [{"Prompts": row.prompt, **row.extras} for row in rows] == expected
    assert rows[5].prompt == "A poster of four lines:\none, two,\nthree, four."
    assert [row.line for row in rows[4:]] == [6, 7, 10, 11]


SETS: dict[str, tuple[int, dict[str, Any]]] = {
    "t2i_compbench_shaped.txt": (
        6,
        {
            "number": 4,
            "line": 4,
            "verbatim": "The fluffy rug was on top of the smooth, shiny floor.",
            "prompt": "The fluffy rug was on top of the smooth, shiny floor.",
        },
    ),
    "drawbench_shaped.csv": (
        8,
        {
            "number": 2,
            "line": 3,
            "verbatim": '"A black apple, a white banana and a blue pear.",Colors',
            "prompt": "A black apple, a white banana and a blue pear.",
            "extras": {"Category": "Colors"},
        },
    ),
    "dpg_bench_shaped": (
        3,
        {
            "number": 2,
            "line": 1,
            "verbatim": "A still life of a violin and its bow, which rest on a stack of five books."
            "\nThe top book lies open.",
            "key": "drawtext3",
            "prompt": "A still life of a violin and its bow, which rest on a stack of five books."
            "\nThe top book lies open.",
        },
    ),
    "hpsv2_shaped.json": (
        4,
        {
            "number": 2,
            "line": 3,
            "verbatim": '"Two girls with umbrellas, anime style, \\"rainy day\\", '
            '(masterpiece:1.2), [blurry]"',
            "prompt": 'Two girls with umbrellas, anime style, "rainy day", '
            "(masterpiece:1.2), [blurry]",
        },
    ),
    "coco_30k_shaped.json": (
        3,
        {
            "number": 3,
            "line": 3,
            "verbatim": '{"image_id": 285, "id": 700285, '
            '"caption": "A sign says \\"slow\\" next to a road"}',
            "key": "700285",
            "prompt": 'A sign says "slow" next to a road',
            "extras": {"image_id": 285},
        },
    ),
    "mjhq_shaped.json": (
        3,
        {
            "number": 2,
            "line": 6,
            "verbatim": '{ "category": "food", '
            '"prompt": "a bowl of soup, steam, rustic table, \\"comfort\\"" }',
            "key": "1b2c3d4e5f60718293a4b5c6d7e8f9012345678a",
            "prompt": 'a bowl of soup, steam, rustic table, "comfort"',
            "extras": {"category": "food"},
        },
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_a_file_shaped_like_a_public_set_is_read_unchanged(name: str) -> None:
    count, expected = SETS[name]
    rows = good_rows(PROMPTS / name)
    assert [row.number for row in rows] == list(range(1, count + 1))
    whole = {"key": None, "parameters": Parameters(), "extras": {}, **expected}
    assert rows[expected["number"] - 1] == ManifestRow(**whole)


def test_i2p_s_columns_are_used_by_map() -> None:
    limits = replace(LIMITS, max_guidance_scale=255)
    path: Path = PROMPTS / "i2p_shaped.csv"
    first, second, third = good_rows(path, columns=I2P_COLUMNS, limits=limits)
    assert second == ManifestRow(
        number=2,
        line=3,
        verbatim=path.read_text("utf-8").splitlines()[2],
        key=None,
        prompt='a crowd, "angry", torches, by night',
        parameters=Parameters(
            seed=4261553411, guidance_scale=255, width=512, height=768, model="stable-diffusion-v1"
        ),
        extras={
            "column_1": "1",
            "categories": "violence",
            "hard": "1",
            "inappropriate_percentage": "72.5",
            "nudity_percentage": "0.0",
            "q16_percentage": "72.5",
            "sd_safety_percentage": "20.0",
            "prompt_toxicity": "0.45",
            "lexica_url": "https://lexica.example/?prompt=2",
        },
    )
    assert first.parameters.seed == 1843026
    assert third.parameters.model == "stable-diffusion-v1-5"
    (line,) = problems(path, columns=I2P_COLUMNS)
    assert "IMAGEMILL_MAX_GUIDANCE_SCALE" in line, "unless the limit is raised"
    (line,) = problems(path, limits=limits)
    assert all(column in line for column in I2P_COLUMNS), "nor is one used or left out unasked"


def test_the_table_of_coco_30k_is_read_by_map_or_by_extra() -> None:
    path = PROMPTS / "coco_30k_shaped.csv"
    rows = good_rows(path, columns={"evaluation_seed": "seed", "case_number": "id"})
    assert len(rows) == 3
    assert rows[1] == ManifestRow(
        number=2,
        line=3,
        verbatim='1,coco_30k,"Two cats sleep on a couch, near a remote.",8304,139',
        key="1",
        prompt="Two cats sleep on a couch, near a remote.",
        parameters=Parameters(seed=8304),
        extras={"source": "coco_30k", "coco_id": "139"},
    )
    kept = good_rows(path, columns={"evaluation_seed": EXTRA})[1]
    assert kept.parameters == Parameters()
    assert kept.extras["evaluation_seed"] == "8304"
