"""Clocks of processes that jump, by libfaketime (Debian: `apt-get install libfaketime`).

The clock of the wall jumps; the monotonic one goes on, as on a machine whose time is set anew.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LIBRARIES = ("faketime/libfaketimeMT.so.1", "*/faketime/libfaketimeMT.so.1")


def library() -> Path | None:
    """Where libfaketime is; None if it is not installed."""
    for pattern in _LIBRARIES:
        for folder in ("/usr/lib", "/usr/local/lib", "/usr/lib64"):
            found = next(Path(folder).glob(pattern), None)
            if found is not None:
                return found
    return None


@dataclass(frozen=True)
class FakedClock:
    """A clock that several processes share: `file` says how far it is off."""

    library: Path
    file: Path

    @classmethod
    def made(cls, file: Path) -> "FakedClock | None":
        """A clock that is right; None where libfaketime is not installed."""
        found = library()
        if found is None:
            return None
        clock = cls(found, file)
        clock.jump(0)
        return clock

    def jump(self, seconds: float) -> None:
        """Set it so far ahead of the true time (or back, where negative), for all at once."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.replace(self.file)

    def environment(self, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """What a process needs in its environment to have this clock."""
        paths = [str(Path(__file__).parent), *filter(None, [given.get("PYTHONPATH")])]
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            # How long a process may not notice a jump. Without a cache each look reads the file.
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Ages of files are compared with the time, so both are the machine's.
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": os.pathsep.join(paths),
        }
