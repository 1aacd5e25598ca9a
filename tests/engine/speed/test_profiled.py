"""`worker --profile FILE`: a trace and a table of some steps, and the same pictures as without."""

import json
from pathlib import Path

import numpy as np
import pytest

from imagemill.db.settings import Settings
from imagemill.worker.engine import profiled_engine
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.profiled_engine import SKIPPED_STEPS, ProfiledEngine
from imagemill.worker.models.model import Model
from tests.engine.rendering import pixels_of, render, small_spec_for

STEPS = 4
"""Profiled here, and not twenty: reading their traces takes seconds."""


def test_so_many_steps_are_written_once(
    shapes64: Model, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiled_engine, "PROFILED_STEPS", STEPS)
    spec = small_spec_for(shapes64, steps=SKIPPED_STEPS + STEPS + 2)
    usual = open_engine(shapes64, spec.group(), settings, 1)
    trace = tmp_path / "trace.json"
    engine = ProfiledEngine(usual, trace)
    first = pixels_of(render(engine, [spec])[0])
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("name") == "step" for event in events) == STEPS
    table = trace.with_suffix(".txt").read_text()
    assert "aten::" in table
    assert "step" in table
    trace.unlink()
    assert np.array_equal(pixels_of(render(engine, [spec])[0]), first)
    assert not trace.exists()


def test_a_short_job_writes_what_there_was_and_a_missing_folder_ends_nothing(
    shapes64: Model, settings: Settings, tmp_path: Path
) -> None:
    spec = small_spec_for(shapes64, steps=SKIPPED_STEPS + 1)
    for place in (tmp_path / "trace.json", tmp_path / "none" / "trace.json"):
        engine = ProfiledEngine(open_engine(shapes64, spec.group(), settings, 1), place)
        assert pixels_of(render(engine, [spec])[0]).any()
    assert (tmp_path / "trace.json").exists()
