"""Text manifests: plain prompts, A1111's flags, kohya's options."""

from pathlib import Path
from typing import Any

import pytest

from imagemill.scheduler_jobs.manifest import ManifestRow
from imagemill.scheduler_jobs.manifest.formats.prompts.text import (
    A1111_EXTRAS,
    A1111_FIELDS,
    A1111_INERT,
)
from tests.unit.manifests import good_rows, jsonl, problems, read

A1111_TAGS = set(
    """sd_model outpath_samples outpath_grids prompt_for_display prompt negative_prompt
    styles seed subseed_strength subseed seed_resize_from_h seed_resize_from_w sampler_index
    sampler_name batch_size n_iter steps cfg_scale width height restore_faces tiling
    do_not_save_samples do_not_save_grid""".split()  # noqa: SIM905 - a list of 24 lines says no more
)
"""Every name in `prompt_tags` of A1111's scripts/prompts_from_file.py."""


def read_line(line: str, folder: Path) -> ManifestRow:
    path = folder / "prompts.txt"
    path.write_text(line + "\n", encoding="utf-8")
    (row,) = good_rows(path)
    assert row.verbatim == line
    return row


def test_a_line_is_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# a comment\n\n  a cat \n#1 dad mug\na dog -- in a hat\n(a:1.2), b -- c\n#\n")
    rows = good_rows(path)
    assert [(row.number, row.line, row.prompt) for row in rows] == [
        (1, 3, "a cat"),
        (2, 4, "#1 dad mug"),
        (3, 5, "a dog -- in a hat"),
        (4, 6, "(a:1.2), b -- c"),
    ]


def test_every_flag_of_a1111_is_known() -> None:
    known = {*A1111_FIELDS, *A1111_EXTRAS, *A1111_INERT, "batch_size", "n_iter", "sampler_index"}
    assert known == A1111_TAGS


def test_a1111_flags(tmp_path: Path) -> None:
    row = read_line(
        '--prompt "photo of sunset" --negative_prompt "orange, pink" --seed 1 --steps 20 '
        '--cfg_scale 7 --width 512 --height 768 --sampler_name "Euler a" --batch_size 2 '
        '--n_iter 4 --sd_model "v1-5" --outpath_samples out --do_not_save_grid true '
        '--styles "" --tiling false --restore_faces false --subseed -1 --subseed_strength 0',
        tmp_path,
    )
    assert row.prompt == "photo of sunset"
    assert row.parameters.settings() == {
        "negative_prompt": "orange, pink",
        "model": "v1-5",
        "width": 512,
        "height": 768,
        "steps": 20,
        "guidance_scale": 7.0,
        "sampler": "euler_a",
        "seed": 1,
        "samples": 8,
    }
    assert row.extras == {"outpath_samples": "out", "do_not_save_grid": "true"}


@pytest.mark.parametrize(
    ("line", "prompt", "settings"),
    [
        ("--prompt a big cat --steps 20", "a big cat", {"steps": 20}),
        ("--seed -1 --prompt 'a \"cat\"'", 'a "cat"', {"seed": -1}),
        ('--prompt "a cat" --negative_prompt not a dog', "a cat", {"negative_prompt": "not a dog"}),
        ('--prompt "a --cat" --n_iter 3', "a --cat", {"samples": 3}),
    ],
)
def test_a1111_prompts_run_to_the_next_flag(
    line: str, prompt: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    row = read_line(line, tmp_path)
    assert (row.prompt, row.parameters.settings()) == (prompt, settings)


def test_kohya_options(tmp_path: Path) -> None:
    row = read_line(
        "masterpiece, 1girl --n bad hands, low quality --w 512 --h 768 --s 28 --d 7 --l 7.5 "
        "--t 0.6 --f a.png",
        tmp_path,
    )
    assert row.prompt == "masterpiece, 1girl"
    assert row.parameters.settings() == {
        "negative_prompt": "bad hands, low quality",
        "width": 512,
        "height": 768,
        "steps": 28,
        "seed": 7,
        "guidance_scale": 7.5,
        "strength": 0.6,
    }
    assert row.extras == {"filename": "a.png"}


def test_kohya_seeds_and_letter_case(tmp_path: Path) -> None:
    row = read_line("a cat --D 1,2,3 --S 20", tmp_path)
    assert row.parameters.settings() == {"seeds": (1, 2, 3), "steps": 20}
    assert row.parameters.count == 3


def test_an_option_before_the_first_good_one_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat -s-5 -n2\na cat -x5 -S1.5e3 -n2\n")
    known = "-n, -s, -C, -W, -H, -S, -A, -m, -f, -I"
    assert problems(path) == [
        'prompts.txt:1: steps: "-5"; a whole number from 1 to 1000',
        f"prompts.txt:2: -x: an unknown option; one of {known}",
    ]
    row = read_line('"a cat -s20" -n2', tmp_path)
    assert (row.prompt, row.parameters.settings()) == ("a cat -s20", {"samples": 2})
    assert read_line("a size-5 shoe -n2", tmp_path).prompt == "a size-5 shoe"


@pytest.mark.parametrize("body", ["a cat\ra dog\r", "positive: a cat\rpositive: a dog\n"])
def test_lines_that_end_with_a_carriage_return_are_not_one_prompt(
    body: str, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(body.encode())
    assert problems(path) == [
        "prompts.txt:1: a lone carriage return; LF or CR LF at the end of every line"
    ]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<!DOCTYPE html>\n<html>\nNot found\n", "an HTML page"),
        ("\n<html lang='en'>\n", "an HTML page"),
        ("<?xml version='1.0'?>\n<Error/>\n", "an XML document"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS's pointer"),
    ],
)
@pytest.mark.parametrize("name", ["prompts.txt", "prompts.csv", "prompts.parquet", "prompts"])
def test_what_a_download_left_instead_of_the_file_is_no_prompt(
    body: str, found: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(body)
    (line,) = problems(tmp_path / name)
    assert line.startswith(f"{name}: line 1: {found}")
    (tmp_path / name).rename(tmp_path / "0001.txt")
    (line,) = map(str, read(tmp_path))
    assert line.startswith(f"{tmp_path}/0001.txt: line 1: {found}"), "in a folder of prompts"


INFOTEXT = "a red circle\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 1\n"


def test_a_picture_s_parameters_are_not_three_prompts(tmp_path: Path) -> None:
    (tmp_path / "0001.txt").write_text(INFOTEXT)
    line = "0001.txt: line 3: a picture's parameters as A1111 writes them, and no prompt; "
    line += "a prompt; docs/moving.md makes rows of such texts"
    assert problems(tmp_path / "0001.txt") == [line]
    assert str(*read(tmp_path)) == f"{tmp_path}/{line}", "as a folder of prompts"


@pytest.mark.parametrize("text", [INFOTEXT, " ".join(INFOTEXT.split()), INFOTEXT[-40:]])
def test_a_picture_s_parameters_in_a_cell_are_no_prompt(tmp_path: Path, text: str) -> None:
    path = jsonl(tmp_path, {"prompt": "Steps: 20, of stone"}, {"prompt": text})
    assert problems(path) == [
        "rows.jsonl:2: prompt: a picture's parameters as A1111 writes them, and no prompt; "
        "a prompt; docs/moving.md makes rows of such texts"
    ]
