"""How often each key came before, for any number of keys in little memory.

Equal rows differ by how many equal ones came before them (`db.seeds.row_key`), and a manifest may
have ten million different prompts. So only the first keys are counted in memory. The others are
counted in a temporary SQLite file, which the system deletes as soon as it is opened. Each key is in
one of the two places and is compared as a whole, so the counts are exact.
"""

import sqlite3

from imagemill.db.errors import DatabaseError

KEYS_IN_MEMORY = 50_000
CACHE_KB = 16 * 1024
"""How much of its file SQLite keeps in memory. The file system caches the rest."""

_COUNT = """
INSERT INTO seen (key, times) VALUES (?, 1)
ON CONFLICT (key) DO UPDATE SET times = times + 1 RETURNING times
"""


class Occurrences:
    """Counts keys. Close it in the end."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._file: sqlite3.Connection | None = None

    def add(self, key: str) -> int:
        """Count a key; returns how often it came before. `DatabaseError` if the disk is full."""
        before = self._first.get(key, 0)
        if before == 0 and len(self._first) >= KEYS_IN_MEMORY:
            return self._add_to_file(key)
        self._first[key] = before + 1
        return before

    def close(self) -> None:
        """Drop the counts."""
        self._first.clear()
        if self._file is not None:
            self._file.close()

    def _add_to_file(self, key: str) -> int:
        try:
            if self._file is None:
                self._file = _temporary_file()
            counted = self._file.execute(_COUNT, (key.encode("utf-8", "surrogatepass"),))
            times: int = counted.fetchone()[0]
        except sqlite3.OperationalError as error:
            raise DatabaseError(
                f"rows can't be counted in a temporary file: {error}; "
                "TMPDIR names a folder with more room"
            ) from error
        return times - 1


def _temporary_file() -> sqlite3.Connection:
    # With an empty name, SQLite makes a private file in SQLITE_TMPDIR, TMPDIR or /var/tmp.
    file = sqlite3.connect("", isolation_level=None)
    # The file ends with this process, so it need not survive a crash.
    for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KB}"):
        file.execute(f"PRAGMA {pragma}")
    file.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID")
    file.execute("BEGIN")
    return file
