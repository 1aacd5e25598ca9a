"""Stand-ins for what is behind a command: a broker that counts, and what a run found."""

from pathlib import Path
from typing import Any

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.pictures import NamedPictures
from imagemill.scheduler_jobs.local.run import RunResult


class Broker:
    """Counts tokens instead of publishing them."""

    def __init__(self, settings: Settings) -> None:
        self.published = 0

    def publish(self, route: str, count: int = 1) -> None:
        self.published += count

    def close(self) -> None:
        pass


def a_result(out: Path, **changes: Any) -> RunResult:
    """A run of two images into the folder `out`, with what the test changes."""
    values: dict[str, Any] = {
        "job_id": 1,
        "job_name": "shapes",
        "requested": 2,
        "rendered": 2,
        "reused": 0,
        "done": 2,
        "dead": 0,
        "seconds": 4.0,
        "images_per_second": 0.5,
        "database": f"sqlite:///{out}/imagemill.sqlite3",
        "output": out,
        "contact_sheet": out / "contact-sheet.png",
        "pictures": NamedPictures(folder=out / "pictures", named=2, taken=0),
        "foreign_syntax": (),
        "without_effect": (),
        "columns": (),
        "interrupted": False,
    }
    return RunResult(**{**values, **changes})
