"""How often each key came before, for any number of keys in little memory.

What makes equal rows different (`db.seeds.row_key`) is how many equal ones came before, and a
manifest may have ten million prompts, no two of them equal. So only the first keys are counted in
memory, and the others in a temporary SQLite file, which the system deletes as soon as it is
opened. A key is in one of the two, and compared whole: the counts are exact.
"""

import sqlite3

from imagemill.db.errors import DatabaseError

KEYS_IN_MEMORY = 50_000
CACHE_KB = 16 * 1024
"""What SQLite keeps in memory of its file; beyond, the file system's cache serves."""

_COUNT = """
INSERT INTO seen (key, times) VALUES (?, 1)
ON CONFLICT (key) DO UPDATE SET times = times + 1 RETURNING times
"""


class Occurrences:
    """Counts keys; close it when done."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._file: sqlite3.Connection | None = None

    def add(self, key: str) -> int:
        """Count a key; how often it came before. A `DatabaseError` if the disk is full."""
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
    # An empty name is a file that nobody else sees, in SQLITE_TMPDIR, TMPDIR or /var/tmp.
    file = sqlite3.connect("", isolation_level=None)
    # It dies with us, so nothing of it needs to be safe from a crash.
    for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KB}"):
        file.execute(f"PRAGMA {pragma}")
    file.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID")
    file.execute("BEGIN")
    return file
