"""Which column means what."""

import json
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.manifest.columns import EXTRA, FIELDS, KEY, PROMPT, SIZE, field_of
from tests.unit.manifests import good_rows, problems


def jsonl(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_table_names_every_parameter_and_no_name_twice() -> None:
    assert set(FIELDS) == {*Parameters.model_fields, PROMPT, KEY, SIZE}
    names = [name for field, others in FIELDS.items() for name in (field, *others)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["prompt", "Prompt", "PROMPTS", "positive prompt", " Prompt "])
def test_a_prompt_column_is_known_in_any_case(name: str, tmp_path: Path) -> None:
    (row,) = good_rows(jsonl(tmp_path, {name: "a cat"}))
    assert row.prompt == "a cat"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("cfg_scale", "guidance_scale"),
        ("CFG scale", "guidance_scale"),
        ("num_inference_steps", "steps"),
        ("Negative Prompt", "negative_prompt"),
        ("sampler_name", "sampler"),
        ("num-images", "samples"),
        ("n", None),
        ("image", None),
        ("Category", None),
        ("Challenge", None),
        ("Note", None),
        ("tag", None),
        ("include", None),
        ("exclude", None),
    ],
)
def test_synonyms(name: str, field: str | None) -> None:
    assert field_of(name) == field


def test_caption_and_text_are_the_prompt_only_where_nothing_else_is(tmp_path: Path) -> None:
    rows = good_rows(
        jsonl(
            tmp_path,
            {"text": "a cat"},
            {"text": "a dog", "caption": "a good dog"},
            {"text": "x", "caption": "y", "prompt": "an ox"},
        )
    )
    assert [row.prompt for row in rows] == ["a cat", "a good dog", "an ox"]
    assert [dict(row.extras) for row in rows] == [
        {},
        {"text": "a dog"},
        {"text": "x", "caption": "y"},
    ]


def test_a_mapping_goes_before_the_names_that_are_known(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"title": "a cat", "prompt": "ignored", "width": 1023, "cfg": 3})
    mapping = {"title": PROMPT, "prompt": EXTRA, "width": EXTRA}
    (row,) = good_rows(path, columns=mapping)
    assert row.prompt == "a cat"
    assert row.extras == {"prompt": "ignored", "width": 1023}
    assert row.parameters.settings() == {"guidance_scale": 3.0}


def test_a_wrong_mapping_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("title,x\na cat,1\n")
    assert problems(path, columns={"title": "promt"})[0].startswith(
        "rows.csv: --map title=promt names no field; one of prompt, id,"
    )
    assert problems(path, columns={"titel": "prompt"}) == [
        'rows.csv: line 1: header: --map names "titel", which is no column; one of title, x'
    ]
    assert len(good_rows(path, columns={"title": "prompt"})) == 1


def test_the_id_column_is_the_key(tmp_path: Path) -> None:
    rows = good_rows(
        jsonl(
            tmp_path,
            {"id": "x-1", "prompt": "a"},
            {"ID": 12, "prompt": "b"},
            {"id": None, "prompt": "c"},
            {"id": "", "prompt": "d"},
            {"prompt": "e"},
        )
    )
    assert [row.key for row in rows] == ["x-1", "12", None, None, None]


def test_size_is_width_and_height(tmp_path: Path) -> None:
    rows = good_rows(
        jsonl(tmp_path, {"prompt": "a", "size": "512x768"}, {"prompt": "b", "Size": "64 × 8"})
    )
    assert [(r.parameters.width, r.parameters.height) for r in rows] == [(512, 768), (64, 8)]
    path = jsonl(tmp_path, {"prompt": "a", "size": "512x768", "width": 512})
    assert problems(path) == ["rows.jsonl:1: size: both size and width or height; one of them"]
