"""The first child of a worker with `--profile` knows the file, and only that one."""

from pathlib import Path

import pytest
from billiard import current_process

from imagemill.worker.process.profile import profile_into, trace_of_this_child


def test_only_the_first_child_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("_IMAGEMILL_PROFILE", "")
    assert trace_of_this_child() is None
    monkeypatch.chdir(tmp_path)
    profile_into(Path("trace.json"))
    assert trace_of_this_child() == tmp_path / "trace.json"
    monkeypatch.setattr(current_process(), "index", 1, raising=False)
    assert trace_of_this_child() is None
