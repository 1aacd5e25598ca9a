"""What a run of the tests says at its end."""

from types import SimpleNamespace

from tests.conftest import pytest_terminal_summary


def test_what_was_missing_is_said_once_for_each_reason() -> None:
    lines: list[str] = []
    skipped = [
        SimpleNamespace(longrepr=("tests/x.py", number, f"Skipped: {reason}"))
        for number, reason in enumerate(("no Chromium here", "no GPU", "no Chromium here"))
    ]
    reporter = SimpleNamespace(stats={"skipped": skipped}, write_line=lines.append)
    pytest_terminal_summary(reporter)
    assert lines == ["2 skipped: no Chromium here", "1 skipped: no GPU"]
