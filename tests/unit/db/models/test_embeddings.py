"""Embeddings fit the text encoders of their model, as far as headers and configurations say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from imagemill.db.errors import ModelError
from imagemill.db.models.embeddings import check_embeddings
from imagemill.db.models.registry import ModelEntry
from tests.helpers.tensors import write_tensors


@pytest.fixture
def entry(tmp_path: Path) -> ModelEntry:
    """A model whose text encoder has vectors of 8 numbers, with the embedding `<a>`."""
    _component(tmp_path, "text_encoder", {"model_type": "clip_text_model", "hidden_size": 8})
    return ModelEntry(
        name="taught",
        source=str(tmp_path / "model"),
        embeddings={"<a>": tmp_path / "a.safetensors"},
        cache=tmp_path,
    )


def _component(tmp_path: Path, name: str, config: dict[str, object]) -> None:
    folder = tmp_path / "model" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    index = tmp_path / "model" / "model_index.json"
    known = json.loads(index.read_text()) if index.exists() else {}
    index.write_text(json.dumps(known | {name: ["transformers", "Some"]}))


def _second(tmp_path: Path, kind: str, **config: object) -> None:
    _component(tmp_path, "text_encoder_2", {"model_type": kind, **config})


@pytest.mark.parametrize("shape", [(8,), (1, 8), (5, 8)])
def test_vectors_of_the_encoders_width_fit(tmp_path: Path, entry: ModelEntry, shape) -> None:
    write_tensors(tmp_path / "a.safetensors", {"emb_params": shape})
    check_embeddings(entry)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"a": (2, 6)}, "vectors of 6 numbers, where the text encoder has 8"),
        ({"a": (2, 2, 8)}, "no embedding: a tensor of shape [2, 2, 8]"),
        ({"a": ()}, "no embedding: a tensor of shape []"),
        ({"a": (0, 8)}, "no embedding: a tensor of shape [0, 8]"),
        ({"a": (8,), "b": (8,)}, "no embedding: 2 tensors, such as a; an embedding is one tensor"),
        ({}, "no embedding: no tensors"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, entry: ModelEntry, shapes, said: str) -> None:
    file = write_tensors(tmp_path / "a.safetensors", shapes)
    with pytest.raises(ModelError) as error:
        check_embeddings(entry)
    assert error.value.message.startswith(f"model taught: embedding <a>: {file}: {said}")


def test_two_encoders_need_vectors_each(tmp_path: Path, entry: ModelEntry) -> None:
    _second(tmp_path, "clip_text_model", hidden_size=12)
    write_tensors(tmp_path / "a.safetensors", {"clip_l": (1, 8), "clip_g": (1, 12)})
    check_embeddings(entry)
    write_tensors(tmp_path / "a.safetensors", {"clip_l": (1, 8), "clip_g": (1, 8)})
    with pytest.raises(ModelError, match="vectors of 8 numbers, where the text encoder has 12"):
        check_embeddings(entry)
    write_tensors(tmp_path / "a.safetensors", {"a": (1, 8)})
    with pytest.raises(ModelError, match="one tensor, a; for two text encoders: clip_l and clip_g"):
        check_embeddings(entry)


def test_a_second_encoder_that_is_not_clips_learns_nothing(
    tmp_path: Path, entry: ModelEntry
) -> None:
    _second(tmp_path, "t5", d_model=12)
    write_tensors(tmp_path / "a.safetensors", {"a": (1, 8)})
    check_embeddings(entry)


def test_a_pickle_is_refused_and_a_model_elsewhere_is_not_judged(
    tmp_path: Path, entry: ModelEntry
) -> None:
    with pytest.raises(ModelError, match=r"a\.pt is not a \.safetensors file"):
        check_embeddings(replace(entry, embeddings={"<a>": tmp_path / "a.pt"}))
    check_embeddings(replace(entry, source=str(tmp_path / "nowhere")))
