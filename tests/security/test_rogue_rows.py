"""Rows that reached the database past the producer: each fails as itself, and says why.

The attacker holds the producer's database role, or is a newer version with fields of its own.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Update, text, update

from imagemill.db import specs
from imagemill.db.errors import ModelError
from imagemill.db.models.components import find_weights
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.states import ImageState
from imagemill.db.tables import Group, Image, Model, Tally
from imagemill.worker.files.encoder import read_record
from tests.helpers.fake_engine import pixels_of
from tests.helpers.mill import DIGEST, spec
from tests.helpers.workshop import Workshop

GOOD = "a good picture"


def rogue(workshop: Workshop, **columns: Any) -> int:
    """A job of one good image and one whose row was changed to these columns."""
    job = workshop.mill.load("job", [GOOD, "rogue"])
    changed = update(Image).where(Image.prompt == "rogue").values(**columns)
    workshop.mill.database.run(lambda session: session.execute(changed))
    return job


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"width": 100_000, "height": 100_000}, "10,000,000,000 where this worker allows 1 to"),
        ({"height": -8}, "64 x -8 is no size of a picture"),
        ({"width": 0}, "0 x 64 is no size"),
        ({"steps": 1_000_000}, "steps: 1,000,000 where this worker allows 1 to 1,000"),
        ({"steps": 0}, "steps: 0 where"),
        ({"steps": -5}, "steps: -5 where"),
        ({"prompt": "x" * 1_000_000}, "bytes of prompt: 1,000,000 where"),
        ({"negative_prompt": "é" * 20_000}, "bytes of negative_prompt: 40,000 where"),
        ({"guidance_scale": float("inf")}, "not finite"),
        ({"sampler": "__import__('os')"}, "no sampler is called"),
        ({"format": "exe"}, "Input should be 'png', 'jpeg' or 'webp'"),
        ({"options": {"windows": 10**9}}, "1000000000 windows for prompts of 5 bytes"),
        ({"options": {"windows": "many"}}, "windows: Input should be a valid integer"),
        ({"options": {"adapters": [{"file": "/etc/passwd"}]}}, "TypeError"),
        ({"options": {"adapters": "all"}}, "TypeError"),
        ({"options": {"custom_pipeline": "x"}}, "unknown fields in a specification"),
        ({"options": {"sampler_options": ["eta"]}}, "AttributeError"),
        ({"options": {"clip_skip": [1]}}, "clip_skip: Input should be a valid integer"),
        ({"options": {"init_image": "../../../etc/passwd"}}, "init_image: not the SHA-256"),
        ({"options": {"mask": "B" * 64}}, "mask: not the SHA-256 of a file"),
        ({"options": []}, "TypeError"),
        ({"options": 5}, "TypeError"),
        ({"options": "x"}, "TypeError"),
        ({"request_key": "../../../../etc/cron.d/x"}, "request key is not 64"),
        ({"request_key": "A" * 64}, "request key is not 64"),
    ],
    ids=str,
)
def test_a_rogue_row_is_dead_with_its_reason_and_takes_no_neighbour(
    workshop: Workshop, columns: dict[str, Any], reason: str
) -> None:
    job = rogue(workshop, **columns)
    workshop.shift()
    good, bad = workshop.mill.images(job)
    assert ImageState(good.state) is ImageState.DONE
    assert ImageState(bad.state) is ImageState.DEAD
    assert bad.error_code == "over_limit"
    assert reason in (bad.error_message or "")
    assert workshop.passes
    assert all(prompts == [GOOD] for prompts in workshop.passes), "it never reached the engine"


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        ('{"strength": NaN}', "not finite"),
        ('{"guidance_rescale": 1e999}', "not finite"),
        ('{"strength": ' + "9" * 5000 + "}", "unreadable JSON"),
        ("[" * 100_000, "unreadable JSON"),
        ("{", "unreadable JSON"),
        ("", "unreadable JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_json_that_python_can_t_read_stops_no_worker(
    workshop: Workshop, json: str, reason: str
) -> None:
    """SQLite keeps whatever text it is given; PostgreSQL at least numbers of any length."""
    job = workshop.mill.load("job", [GOOD, "rogue"])
    change = text("UPDATE images SET options = :json WHERE prompt = 'rogue'")
    workshop.mill.database.run(lambda session: session.execute(change, {"json": json}))
    workshop.shift()
    good, bad = workshop.mill.images(job)
    assert good.state == "done"
    assert (bad.state, bad.error_code) == ("dead", "over_limit")
    assert reason in (bad.error_message or "")


VICTIM = spec("what the victim asks for")
"""A request that somebody else has made, or will make."""

CHANGES = {
    "prompt": {"prompt": "another prompt"},
    "negative prompt": {"negative_prompt": "everything"},
    "seed": {"seed": 2},
    "a seed below zero": {"seed": -1},
    "size within the limits": {"width": 128},
    "steps": {"steps": 19},
    "guidance": {"guidance_scale": 5.5},
    "sampler": {"sampler": "euler"},
    "format": {"format": "jpeg"},
    "an option": {"options": {"clip_skip": 2}},
    "an input": {"options": {"init_image": "b" * 64}},
    "the key itself": {"request_key": "0" * 64},
    "a victim's key": {"request_key": VICTIM.request_key()},
}


@pytest.mark.parametrize("columns", CHANGES.values(), ids=CHANGES)
def test_a_row_that_is_not_what_its_key_says_is_dead(
    workshop: Workshop, columns: dict[str, Any]
) -> None:
    """A bit that fell over, a buggy writer, or somebody who wants other pixels under a key."""
    job = rogue(workshop, **columns)
    workshop.shift()
    good, bad = workshop.mill.images(job)
    assert ImageState(good.state) is ImageState.DONE
    assert (bad.state, bad.error_code) == ("dead", "row_mismatch")
    assert "not that of the row's specification" in (bad.error_message or "")
    assert all(prompts == [GOOD] for prompts in workshop.passes), "it never reached the engine"
    assert [key for key in workshop.files() if bad.request_key in key] == []


@pytest.mark.parametrize("order", ["before", "together", "after"])
def test_nobody_gets_a_picture_by_a_key_that_is_not_its_own(workshop: Workshop, order: str) -> None:
    """A rogue row with a victim's key: neither gets what was rendered for the other."""
    jobs = []
    for name in ("rogue", "victim") if order == "before" else ("victim", "rogue"):
        if name == "victim":
            jobs.append(workshop.mill.load("victim", [VICTIM]))
        else:
            rogue(workshop, request_key=VICTIM.request_key())
        if order != "together":
            workshop.shift()
    workshop.shift()
    (job,) = jobs
    (image,) = workshop.mill.images(job)
    assert image.state == "done"
    (key,) = [key for key in workshop.files() if VICTIM.request_key() in key]
    record, pixels = read_record(workshop.storage.get(key))
    assert record.spec == VICTIM
    assert np.array_equal(pixels, pixels_of(VICTIM))
    bad = next(i for i in workshop.mill.images(1) + workshop.mill.images(2) if i.prompt == "rogue")
    assert (bad.state, bad.error_code) == ("dead", "row_mismatch")


@pytest.mark.parametrize("where", ["the model", "the group"])
def test_other_weights_than_were_asked_for_render_nothing(workshop: Workshop, where: str) -> None:
    """Whoever points a group to other weights gets no picture under the right key."""
    job = workshop.mill.load("job", ["a cat"])
    other = "b" * 64
    changed: Update = update(Model).values(weights_digest=other)
    if where == "the group":
        changed = update(Group).values(document={**spec("a cat").group(), "weights_digest": other})
    workshop.mill.database.run(lambda session: session.execute(changed))
    workshop.shift()
    (image,) = workshop.mill.images(job)
    assert (image.state, image.error_code) == ("dead", "row_mismatch")
    assert workshop.passes == []
    assert workshop.files() == []


def test_a_row_that_names_another_group_is_dead(workshop: Workshop) -> None:
    wide = replace(spec("wide"), width=128)
    job = workshop.mill.load("job", [GOOD, wide])
    first, second = workshop.mill.images(job)
    changed = update(Image).where(Image.id == second.id).values(group_id=first.group_id)
    tally = update(Tally).where(Tally.group_id == second.group_id).values(group_id=first.group_id)
    workshop.mill.database.run(lambda s: (s.execute(changed), s.execute(tally)))
    workshop.shift()
    good, bad = workshop.mill.images(job)
    assert good.state == "done"
    assert (bad.state, bad.error_code) == ("dead", "row_mismatch")
    assert "the row is not of its group: width differ" in (bad.error_message or "")


def test_a_key_by_an_earlier_version_of_metadata_is_still_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job outlives the upgrade of the workers that render it."""
    request = spec("a cat")
    earlier = request.request_key()
    monkeypatch.setattr(specs, "METADATA_VERSION", specs.METADATA_VERSION + 1)
    assert request.is_named(earlier)
    assert not request.is_named(request.request_key(metadata_version=99))


def test_the_worker_s_own_limits_count(workshop: Workshop) -> None:
    workshop.settings = workshop.settings.model_copy(update={"max_steps": 10})
    job = workshop.mill.load("job", [replace(spec("ok"), steps=10), replace(spec("no"), steps=11)])
    workshop.shift()
    ok, no = workshop.mill.images(job)
    assert (ok.state, no.state) == ("done", "dead")


@pytest.mark.parametrize(
    "document",
    [
        {"weights_digest": DIGEST, "width": 100_000, "height": 100_000, "guided": True},
        {"weights_digest": DIGEST, "width": "64", "height": 64},
        {"weights_digest": DIGEST, "width": 64, "height": 64, "windows": 10**9},
        {"width": 64, "height": 64},
        {},
        [],
        5,
        "x",
    ],
    ids=str,
)
def test_no_engine_is_opened_for_a_rogue_group(
    workshop: Workshop, document: dict[str, Any]
) -> None:
    job = workshop.mill.load("job", ["rogue"])
    changed = update(Group).values(document=document)
    workshop.mill.database.run(lambda session: session.execute(changed))
    report = workshop.shift()
    (image,) = workshop.mill.images(job)
    assert (image.state, image.error_code) == ("dead", "row_mismatch")
    assert workshop.shelf.opened == []
    assert report.failed == 1


def test_a_rogue_group_does_not_keep_others_waiting(workshop: Workshop) -> None:
    workshop.mill.load("rogue", ["rogue"], priority=9)
    changed = update(Group).values(document={})
    workshop.mill.database.run(lambda session: session.execute(changed))
    job = workshop.mill.load("good", [replace(spec(GOOD), width=128)])
    workshop.shift()
    assert workshop.counts(job).done == 1


@pytest.mark.parametrize("name", ["/etc", "../../models", "https://example.org/model", "org/model"])
def test_a_model_s_name_in_a_rogue_row_loads_nothing(name: str) -> None:
    """Models are opened by digest, out of this worker's registry."""
    settings = Settings.load()
    with pytest.raises(ModelError, match="no model here has the weights"):
        find_weights(load_registry(settings), "f" * 64, name=name)
