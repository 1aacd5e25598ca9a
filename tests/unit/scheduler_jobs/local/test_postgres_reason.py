"""Why a PostgreSQL did not start, by its log."""

from pathlib import Path

import pytest

from imagemill.scheduler_jobs.local.postgres import why_not_started

BEGIN = "2026-11-30 08:53:47 UTC [1] LOG:  starting PostgreSQL 18.3\n"
AT = "2026-11-30 08:53:47 UTC [2] "


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            f"{BEGIN}{AT}FATAL:  the database system is starting up\n"
            f'{AT}FATAL:  could not write to file "pg_wal/x": No space left on device\n'
            f"{AT}LOG:  database system is shut down\n",
            'could not write to file "pg_wal/x": No space left on device',
        ),
        (f"{BEGIN}{AT}FATAL:  of an earlier start\n{BEGIN}{AT}LOG:  odd\n", f"{AT}LOG:  odd"),
        ("", "it said nothing"),
    ],
)
def test_the_fatal_error_of_the_last_start_is_the_reason(
    log: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "postgres.log"
    file.write_text(log)
    assert why_not_started(file) == reason
