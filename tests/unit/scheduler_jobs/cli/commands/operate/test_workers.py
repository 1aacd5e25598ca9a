"""`workers`, and the orders to drain, resume, pin and unpin."""

import io
import re
import sys
from dataclasses import replace

import click
import pytest
from sqlalchemy import update

from imagemill.db.clock import seconds_from_now
from imagemill.db.queries.fleet.workers import list_fleet
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.presence import LOST_SECONDS
from imagemill.db.tables import Worker
from imagemill.scheduler_jobs.cli.commands.operate.workers import _print


def test_the_fleet_is_listed(at_home, mill):
    mill.load("job", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    shown = at_home("workers").out
    assert shown.split("\n")[0].split() == [
        *("WORKER", "DEVICE", "MODEL", "B", "IMAGES/S", "DOES", "SINCE")
    ]
    assert "renders" in shown
    (worker,) = at_home("workers", "--json").json["workers"]
    assert (worker["worker"], worker["state"], worker["model"]) == (
        "w@host",
        "renders",
        "model-aaaa",
    )
    assert worker["images_per_second"] > 0


def test_drain_and_resume(at_home, mill):
    assert at_home("workers", "drain", "host").out == "1 process told to drain:\n  w@host\n"
    assert at_home("workers", "--json").json["workers"][0]["state"] == "drained"
    told = at_home("workers", "resume", "w", "--json").json
    assert told == {"workers": ["w@host"], "draining": False}
    assert at_home("workers", "--json").json["workers"][0]["state"] == "waits"


def test_pin_and_unpin(at_home, mill):
    mill.load("job", ["a"])
    told = at_home("workers", "pin", "host", "job").out
    assert told == "1 process told to take only images of job 1 (job):\n  w@host\n"
    assert "PINNED TO" in at_home("workers").out
    assert "job 1" in at_home("workers").out
    told = at_home("workers", "pin", "w@host", "model:m-aaaa", "--json").json
    assert told["workers"] == ["w@host"]
    assert told["pinned"]["model"] == "m-aaaa"
    (worker,) = at_home("workers", "--json").json["workers"]
    assert (worker["pinned_as"], worker["pinned_model"]) == ("w@host", "m-aaaa")
    assert at_home("workers", "unpin", "w").out == "1 process told to take all work:\n  w@host\n"
    assert "PINNED TO" not in at_home("workers").out
    answer = at_home("workers", "pin", "w", "nothing")
    assert answer.code == 2
    assert "no job nothing, and no job asked for images of a model nothing" in answer.err
    assert at_home("workers", "unpin", "w").code == 2


def test_an_unknown_worker_is_one_line(at_home):
    answer = at_home("workers", "drain", "nobody")
    assert answer.code == 2
    assert "no live worker nobody; `imagemill workers` lists them" in answer.err


def test_no_worker_is_no_error(at_home, mill):
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    assert "no worker is alive; the same `imagemill run` goes on" in at_home("workers").out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("host", ["box", "gpu-node-0017.cluster.eu-west-1.compute.internal"])
def test_names_are_never_cut(mill, monkeypatch, width, host):
    """Where they do not fit beside each other, each process takes a few lines."""
    with mill.database.reading() as session:
        [found] = list_fleet(session)
    model = "stable-diffusion-xl-base-1.0" if host != "box" else "sdxl"
    named = replace(found, name=f"gpu@{host}:4711", model=model, device_name="NVIDIA H100 80GB")
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", stream)
    _print([named, replace(named, name="gpu@box:4712", model="flux1-dev")])
    shown = click.unstyle(stream.getvalue())
    assert max(map(len, shown.splitlines())) <= width
    for name in (named.name, model, "flux1-dev", "waits"):
        assert name in shown
    assert ("DEVICE" in shown) == (host == "box" or width == 140)


def test_a_killed_worker_is_said_to_be_lost(at_home, mill):
    past = seconds_from_now(-LOST_SECONDS - 5)
    mill.database.run(lambda session: session.execute(update(Worker).values(seen_at=past)))
    assert re.search(r"^w@host +cpu +lost +5\d s ago", at_home("workers").out, re.MULTILINE)
    job = mill.load("job", ["a"])
    out = at_home("status", job).out
    assert "0 workers alive, 1 lost, 0 shifts at work" in out
    assert re.search(r"^w@host +cpu +default +lost +5\d s ago", out, re.MULTILINE)
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    assert "no worker is alive" in at_home("workers").out
    assert re.search(r"^w@host +cpu +stopped", at_home("workers", "--all").out, re.MULTILINE)
