"""What the commands say of images that no live worker's card has the memory for."""

import pytest

from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.memory_needs import Card, record_need
from imagemill.db.settings import Settings
from tests.helpers.mill import DIGEST, spec

GIB = 2**30
TUNING = "t" * 64
LARGE = spec("a", width=2048)
TOLD = (
    "job 1 (posters): 400 images of m-aaaa 2048x64 wait for a card of 33.6 GiB; "
    "live workers have at most 23.5 GiB\n"
)


def need(mill, key, **found):
    mill.database.run(
        lambda session: record_need(session, key=key, tuning=TUNING, device="NVIDIA T4", **found)
    )


@pytest.fixture
def cards(mill):
    """A job of two sizes of one model, and two workers whose cards are small for one of them."""
    mill.load("posters", [LARGE, "b"], samples=400)
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    for name, size in (("gpu@box:1", 8), ("gpu@box:2", 23.5)):
        worker_id, card = mill.worker(name), Card(memory_bytes=int(size * GIB), tuning=TUNING)
        mill.database.run(
            lambda session, found=(worker_id, card): shifts.see_worker(
                session, found[0], device="cuda:0", card=found[1]
            )
        )
    need(mill, LARGE.group_key(), needed=int(33.6 * GIB))
    return mill


def test_it_is_said_wherever_somebody_looks(at_home, cards):
    for command in (("status",), ("status", "posters"), ("workers",)):
        assert TOLD in at_home(*command).out
        [told] = at_home(*command, "--json").json["too_large"]
        assert told["job_id"] == 1
        assert told["images"] == 400
        assert told["needed_bytes"] == int(33.6 * GIB)
        assert told["largest_bytes"] == int(23.5 * GIB)
    cards.cancel(1)
    assert "wait for a card" not in at_home("status").out
    assert at_home("workers", "--json").json["too_large"] == []


@pytest.mark.parametrize("columns", [80, 140])
def test_workers_show_the_memory_of_their_cards(at_home, cards, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    cards.worker("cpu@box:3")
    lines = at_home("workers").out.splitlines()
    assert lines[0].split()[:3] == ["WORKER", "DEVICE", "GIB"]
    assert lines[1].split()[:3] == ["cpu@box:3", "cpu", "waits"]
    assert lines[2].split()[:3] == ["gpu@box:1", "cuda:0", "8.0"]
    assert at_home("workers", "--json").json["workers"][2]["memory_bytes"] == int(23.5 * GIB)


def test_a_card_that_was_too_small_is_all_that_is_known(at_home, cards):
    need(cards, DIGEST, too_small=int(23.5 * GIB))
    assert (
        "400 images of m-aaaa 64x64 wait for a card of more than 23.5 GiB; live workers have at "
        "most 23.5 GiB"
    ) in at_home("status").out


def test_a_plan_and_a_submission_say_it_beforehand(at_home, cards, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\na blue circle\n")
    digest = weights_digest(load_registry(Settings.load()).find("shapes64"))
    assert "card" not in at_home("plan", file).out
    need(cards, digest, needed=40 * GIB)
    told = "2 images of shapes64 64x64 wait for a card of 40.0 GiB; live workers have at most"
    answer = at_home("plan", file)
    assert told.replace("wait", "would wait") in answer.out
    assert answer.code == 0
    [found] = at_home("plan", file, "--json").json["too_large"]
    assert (found["job_id"], found["images"]) == (None, 2)
    assert f"(prompts): {told}" in at_home("submit", file).err


def test_a_plan_warns_of_labels_that_nobody_has(at_home, cards, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n")
    told = "no live worker has the labels gpu=h100"
    for options in ((), ("--json",)):
        answer = at_home("plan", file, "--needs", "gpu=h100", *options)
        assert told in answer.err
        assert answer.code == 0
    cards.worker("fit@box:9", labels={"gpu": "h100"})
    assert at_home("plan", file, "--needs", "gpu=h100").err == ""
    assert at_home("plan", file).err == ""
