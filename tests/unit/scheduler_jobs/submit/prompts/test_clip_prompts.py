"""Weights and long prompts of generic pipelines: taken where CLIP alone reads, else refused."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from imagemill.db.broker import wake_ups
from imagemill.db.queries.images import spec_of
from imagemill.db.tables import Image
from tests.unit.scheduler_jobs.submit.planning.test_generic_models import NoBroker

SHAPES64 = Path(__file__).parents[5] / "worker" / "shapes64"
LONG = "a red circle on a blue background, " * 6 + "and a green star"


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    """`clip` is read by CLIP alone, `other` by an encoder of another kind, `three` by both."""
    monkeypatch.setattr(wake_ups, "Tokens", NoBroker)
    _changed(tmp_path / "other", encoder="t5", pipeline="StableDiffusionPipeline")
    _changed(tmp_path / "three", encoder="clip_text_model", pipeline="StableDiffusion3Pipeline")
    text = "".join(
        f'[models.{name}]\nsource = "{source}"\nkind = "generic"\n'
        for name, source in (("clip", SHAPES64), ("other", "other"), ("three", "three"))
    )
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setenv("IMAGEMILL_MODELS", str(tmp_path / "models.toml"))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(tmp_path / "cache"))


def _changed(folder, *, encoder, pipeline):
    """shapes64 as another pipeline with another kind of text encoder."""
    for file in SHAPES64.rglob("*.json"):
        copy = folder / file.relative_to(SHAPES64)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for file, key, value in (
        (folder / "text_encoder" / "config.json", "model_type", encoder),
        (folder / "model_index.json", "_class_name", pipeline),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))


def planned(at_home, tmp_path, row):
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"prompt": LONG, **row}) + "\n")
    return at_home("plan", manifest, "--json")


def test_where_clip_reads_windows_are_counted_and_weights_taken(at_home, mill, tmp_path):
    answer = planned(at_home, tmp_path, {"model": "clip"})
    assert answer.code == 0, answer.out
    assert json.loads(answer.out)["long_prompts"] == 1

    manifest = tmp_path / "rows.jsonl"
    options = ("--long-prompts", "chunk", "--prompt-weighting", "true")
    answer = at_home("submit", manifest, "--json", *options)
    assert answer.code == 0, answer.err
    with mill.database.reading() as session:
        [image] = session.scalars(select(Image))
        spec = spec_of(image, "a" * 64)
    assert spec.windows == 2
    assert spec.prompt_weighting


@pytest.mark.parametrize("model", ["other", "three"])
@pytest.mark.parametrize(
    ("column", "value", "instead"),
    [("prompt_weighting", True, "false"), ("long_prompts", "chunk", "truncate")],
)
def test_another_encoder_refuses_both(at_home, tmp_path, model, column, value, instead):
    answer = planned(at_home, tmp_path, {"model": model, column: value})
    assert answer.code == 2
    [problem] = json.loads(answer.out)["problems"]
    assert problem["column"] == column
    assert problem["allowed"].startswith(f"{instead}, or none: the prompts of Stable")
    assert problem["allowed"].endswith("are not read by CLIP alone")
    idle = planned(at_home, tmp_path, {"model": model, column: {True: False}.get(value, instead)})
    assert idle.code == 0, idle.out


@pytest.mark.parametrize(
    ("column", "text", "found"),
    [
        ("prompt", "a (red:1.2.3) circle", "the weight '1.2.3'"),
        ("prompt", "a ((red:20):20) circle", "the weight 400"),
        ("negative_prompt", "a [(blue:..)] square", "the weight '..'"),
    ],
)
def test_weights_that_can_not_be_used_are_refused(at_home, tmp_path, column, text, found):
    row = {"prompt": "a circle", column: text}
    weighted = planned(at_home, tmp_path, {**row, "prompt_weighting": True})
    assert weighted.code == 2
    [problem] = json.loads(weighted.out)["problems"]
    assert (problem["column"], problem["found"]) == (column, found)
    assert problem["allowed"] == "numbers from -100 to 100, as in (word:1.3)"
    assert planned(at_home, tmp_path, row).code == 0, "a plain text"
