"""Deadlines as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.deadlines import read_deadline


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90s", timedelta(seconds=90)),
        ("12h", timedelta(hours=12)),
        (" 1.5d ", timedelta(hours=36)),
        ("2w", timedelta(weeks=2)),
        ("2099-12-24T18:00Z", datetime(2099, 12, 24, 18, tzinfo=UTC)),
        ("2099-12-24 18:00+02:00", datetime(2099, 12, 24, 16, tzinfo=UTC)),
    ],
)
def test_durations_and_times(text: str, found: object) -> None:
    assert read_deadline(text) == found


def test_a_time_without_a_zone_is_local() -> None:
    local = datetime(2099, 12, 24, 18).astimezone(UTC)
    assert read_deadline("2099-12-24T18:00") == local
    assert read_deadline(datetime(2099, 12, 24, 18)) == local


@pytest.mark.parametrize(
    "text", ["", "soon", "12", "12 hours", "-3h", "2099-13-01", "9" * 400 + "h"]
)
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="is neither a duration, such as 12h"):
        read_deadline(text)


@pytest.mark.parametrize("given", ["0s", "2001-01-01", timedelta(), timedelta(seconds=-1)])
def test_what_has_passed_is_refused(given: str | timedelta) -> None:
    with pytest.raises(UsageError, match="it has passed already"):
        read_deadline(given)
