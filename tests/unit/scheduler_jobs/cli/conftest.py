"""Fixtures for the commands that read manifests."""

import pytest

from imagemill.db.broker import wake_ups
from imagemill.db.broker.wake_ups import FIRST_TOKENS
from imagemill.db.queries.tallies import Counts
from imagemill.scheduler_jobs.local import run as embedded_run
from tests.helpers.pretended import Broker, a_result

GOOD = "prompt,steps,Mood\na red circle,,calm\na blue star,30,wild\n"


@pytest.fixture
def no_broker(monkeypatch):
    """Let `submit` publish its tokens to nobody."""
    assert FIRST_TOKENS > 0
    monkeypatch.setattr(wake_ups, "Tokens", Broker)


@pytest.fixture
def manifest(tmp_path):
    file = tmp_path / "shapes.csv"
    file.write_text(GOOD)
    return file


@pytest.fixture
def pretended_run(monkeypatch):
    """Makes `run` return a result at once; the requests that it got."""
    seen = []

    def pretend(**changes):
        def run(request, *, settings, out, progress, early):
            seen.append((request, settings, out))
            progress(Counts(ready=2))
            return a_result(out, **changes)

        monkeypatch.setattr(embedded_run, "run", run)
        return seen

    return pretend
