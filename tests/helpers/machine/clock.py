"""The clock of the wall, where a test must not meet a certain moment of it."""

import time
from datetime import UTC, datetime

_MARGIN_SECONDS = 60


def pass_midnight() -> None:
    """Wait until it is over, if the day (UTC) ends within a minute: quotas begin anew then."""
    now = datetime.now(UTC)
    left = 86_400 - (now.hour * 3600 + now.minute * 60 + now.second)
    if left <= _MARGIN_SECONDS:
        time.sleep(left + 1)
