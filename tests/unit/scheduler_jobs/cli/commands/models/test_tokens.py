"""`tokens`: ids, pieces, the window, and what is cut."""

import sys

import pytest

from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings


@pytest.fixture
def room():
    """How many tokens of a prompt shapes64 reads."""
    window = model_facts(load_registry(Settings()).find("shapes64")).window
    assert window is not None
    return window - 2


def test_tokens_are_shown_with_ids_pieces_and_texts(imagemill, room):
    told = imagemill("tokens", "--model", "shapes64", "A red circle", "--json").json
    assert (told["model"], told["prompt"]) == ("shapes64", "A red circle")
    [read] = told["tokenizers"]
    assert (read["window"], read["cut"]) == (room, None)
    assert read["count"] == len(read["tokens"])
    assert "".join(token["text"] for token in read["tokens"]).replace(" ", "") == "Aredcircle"
    assert {type(token["token_id"]) for token in read["tokens"]} == {int}
    text = imagemill("tokens", "A red circle").out
    assert text.splitlines()[0] == f"shapes64: {read['count']} tokens, the window takes {room}"
    for token in read["tokens"]:
        assert f"{token['token_id']}  {token['piece']}" in text


def test_what_is_beyond_the_window_is_said_to_be_cut(imagemill, room):
    prompt = "a red circle " * room + "and the end"
    [read] = imagemill("tokens", prompt, "--json").json["tokenizers"]
    assert read["cut"].endswith("and the end")
    cut = [token for token in read["tokens"] if token["cut"]]
    assert len(cut) == read["count"] - room
    answer = imagemill("tokens", prompt)
    assert f"{len(cut)} tokens cut" in answer.out
    assert answer.out.splitlines()[-1] == f"cut: {read['cut']}"


def test_no_prompt_at_all_has_no_tokens(imagemill):
    assert imagemill("tokens", "", "--json").json["tokenizers"][0]["tokens"] == []
    assert "0 tokens" in imagemill("tokens", "").out


def test_an_unknown_model_is_one_line(imagemill):
    answer = imagemill("tokens", "--model", "nonesuch", "a")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "nonesuch" in answer.err


def test_only_the_tokenizer_is_loaded(imagemill):
    loaded = "torch" in sys.modules
    imagemill("tokens", "a red circle")
    assert ("torch" in sys.modules) == loaded
