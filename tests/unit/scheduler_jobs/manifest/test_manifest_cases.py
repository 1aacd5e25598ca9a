"""Small files shaped like what public tools write, each with what is made of it."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagemill.scheduler_jobs.manifest import Problem
from imagemill.scheduler_jobs.manifest.columns.layout import EXTRA
from tests.unit.manifests import DATA, LIMITS, good_rows, problems, read

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


def test_a_float_above_2_53_is_no_seed() -> None:
    lines = problems(CASES / "seed_53.jsonl")
    assert [line.split(":")[1] for line in lines] == ["1", "4"]
    assert all("a float above 2^53, which has been rounded" in line for line in lines)
    good = [row for row in read(CASES / "seed_53.jsonl") if not isinstance(row, Problem)]
    assert [row.parameters.seed for row in good] == [9007199254740993, 9007199254740993, 1000]
    (line,) = problems(CASES / "pd_nan_seed.parquet")
    assert line.startswith("pd_nan_seed.parquet:1: seed: ")


LARGEST = 2**64 - 1
"""The largest seed that ComfyUI draws."""


def test_comfyui_s_largest_seed_is_a_seed() -> None:
    found = read(CASES / "seed_64.jsonl")
    seeds = [None if isinstance(row, Problem) else row.parameters.seed for row in found]
    assert seeds == [LARGEST, None, None, None, None]
    assert problems(CASES / "seed_64.jsonl") == [
        f"seed_64.jsonl:{row}: seed: {shown}; a whole number from 0 to {LARGEST}, "
        "or -1 for a derived seed"
        for row, shown in ((2, "-2"), (4, '""'), (5, '"random"'))
    ]


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63 - 1, 2**63, LARGEST])
def test_a_large_seed_is_exact_in_every_format(tmp_path: Path, seed: int) -> None:
    texts = {
        "rows.csv": f"prompt,seed\na cat,{seed}\n",
        "rows.tsv": f"prompt\tseed\na cat\t{seed}\n",
        "rows.jsonl": f'{{"prompt": "a cat", "seed": {seed}}}\n',
        "text.jsonl": f'{{"prompt": "a cat", "seed": "{seed}"}}\n',
        "rows.json": f'[{{"prompt": "a cat", "seed": {seed}}}]',
        "a1111.txt": f'--prompt "a cat" --seed {seed}\n',
        "kohya.txt": f"a cat --d {seed}\n",
        "invoke.txt": f"a cat -S{seed}\n",
    }
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    table = pa.table({"prompt": ["a cat"], "seed": pa.array([seed], pa.uint64())})
    pq.write_table(table, tmp_path / "rows.parquet")
    for file in tmp_path.iterdir():
        (row,) = good_rows(file)
        assert row.parameters.settings() == {"seed": seed}, file.name
        assert row.extras == {}, file.name


@pytest.mark.parametrize("text", ["18446744073709551616", "1.8446744073709552e19"])
def test_a_seed_beyond_64_bits_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.csv").write_text(f"prompt,seed\na cat,{text}\n")
    (line,) = problems(tmp_path / "rows.csv")
    assert line.startswith("rows.csv:1: seed: ")


def test_a_float_of_four_bytes_is_its_shortest_text() -> None:
    mapping = {"sampler": EXTRA}
    parquet = settings("diffusiondb.parquet", columns=mapping)
    assert parquet == settings("diffusiondb_as.csv", columns=mapping)
    assert [row["guidance_scale"] for row in parquet] == [7.3, 4.1]


def test_an_id_of_one_point_nought_is_one() -> None:
    (row,) = good_rows(CASES / "pd_float_id.parquet")
    assert row.key == "1"


def test_a_word_for_a_missing_text_is_refused_with_a_way_out() -> None:
    lines = problems(CASES / "nan_text.csv")
    assert lines[:2] == [
        'nan_text.csv:1: negative_prompt: "nan", which stands for a missing text; '
        "a text, or an empty cell; --literal-words takes the word as it stands",
        'nan_text.csv:2: prompt: "nan", which stands for a missing text; '
        "a text, or an empty cell; --literal-words takes the word as it stands",
    ]
    kept = read(CASES / "nan_text.csv", literal_words=True)
    assert [row.prompt for row in kept if not isinstance(row, Problem)] == ["a red circle", "nan"]


def test_guidance_is_limited_by_a_setting_that_the_line_names() -> None:
    assert problems(CASES / "guidance_150.csv") == [
        'guidance_150.csv:1: guidance_scale: "150"; '
        "a number from 0 to 100 (IMAGEMILL_MAX_GUIDANCE_SCALE)"
    ]
    limits = replace(LIMITS, max_guidance_scale=255)
    assert settings("guidance_150.csv", limits=limits) == [{"guidance_scale": 150.0}]


def _written(folder: Path, suffix: str, column: str, value: Any) -> Path:
    path = folder / f"rows{suffix}"
    row = {"prompt": "a", column: value}
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif suffix == ".json":
        path.write_text(json.dumps([row]))
    elif suffix == ".jsonl":
        path.write_text(json.dumps(row))
    else:
        with path.open("w") as stream:
            writer = csv.writer(stream, delimiter="," if suffix == ".csv" else "\t")
            writer.writerows((row.keys(), row.values()))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("column", "value", "read_as"),
    [
        ("seed", 7, 7),
        ("seed", 7.0, 7),
        ("seed", 1e3, 1000),
        ("seed", 2**53 + 1, 2**53 + 1),
        ("seed", str(2**53 + 1), 2**53 + 1),
        ("seed", float(2**53), None),
        ("seed", 6687881544318117707.0, None),
        ("steps", 20.0, 20),
        ("steps", 20.5, None),
        ("guidance_scale", 7.3, 7.3),
        ("guidance_scale", 100.5, None),
        ("id", 1.0, "1"),
        ("id", "1.0", "1"),
        ("id", 12, "12"),
    ],
)
def test_a_number_is_the_same_in_every_format(
    suffix: str, column: str, value: Any, read_as: Any, tmp_path: Path
) -> None:
    path = _written(tmp_path, suffix, column, value)
    if read_as is None:
        (line,) = problems(path)
        assert line.startswith(f"rows{suffix}:1: {column}: ")
    else:
        (row,) = good_rows(path)
        found = row.key if column == "id" else row.parameters.settings()[column]
        assert found == read_as
