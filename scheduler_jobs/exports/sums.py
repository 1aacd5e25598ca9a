"""The SHA-256 of every file of an export, taken as the file is written: `SHA256SUMS` lists them.

`sha256sum -c SHA256SUMS` in the export's folder checks them all; `imagemill push` does the same
before it uploads. Source of the file's form: coreutils' manual, section 6.6 (escaped names).
"""

import hashlib
import io
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from imagemill.scheduler_jobs.exports.record import RECORD
from imagemill.scheduler_jobs.exports.target import Target

SUMS = "SHA256SUMS"

WRITTEN_TOGETHER = 1 << 20
"""Bytes that go to the digest and to the file in one go: one call for each small piece is slow."""

_ESCAPED = re.compile(rb"\\(n|\\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class SumsDigest:
    """How many files are listed, their bytes together, and the SHA-256 of the list itself."""

    files: int
    bytes: int
    sha256: str


class SummedTarget:
    """A target that notes the SHA-256 of what is written. The list is kept outside memory."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sums = sqlite3.connect("")  # an empty name is a temporary file
        self._sums.execute(
            "CREATE TABLE sums (name BLOB PRIMARY KEY, sha256 TEXT, bytes INTEGER) WITHOUT ROWID"
        )

    @property
    def uri(self) -> str:
        """See `Target.uri`."""
        return self._target.uri

    def names(self) -> frozenset[str]:
        """See `Target.names`."""
        return self._target.names()

    def read(self, name: str) -> bytes | None:
        """See `Target.read`."""
        return self._target.read(name)

    def chunks(self, name: str) -> Iterator[bytes]:
        """See `Target.chunks`."""
        return self._target.chunks(name)

    def write(self, name: str, body: bytes) -> None:
        """See `Target.write`."""
        self._target.write(name, body)
        self._note(name, hashlib.sha256(body).hexdigest(), len(body))

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """See `Target.create`. The file is written from its start to its end."""
        with self._target.create(name) as file:
            summed = _SummedFile(file)
            with io.BufferedWriter(cast(io.RawIOBase, summed), WRITTEN_TOGETHER) as buffered:
                yield cast(BinaryIO, buffered)
        self._note(name, summed.digest.hexdigest(), summed.size)

    def clear(self) -> None:
        """See `Target.clear`."""
        self._target.clear()

    def write_sums(self) -> SumsDigest:
        """Write the list of all files, by name. Those of an earlier, interrupted run are read."""
        noted = {name for (name,) in self._sums.execute("SELECT name FROM sums")}
        for name in self.names() - {RECORD, SUMS, ""}:  # some stores list the prefix itself
            if _encoded(name) not in noted:
                digest, size = hashlib.sha256(), 0
                for chunk in self._target.chunks(name):
                    digest.update(chunk)
                    size += len(chunk)
                self._note(name, digest.hexdigest(), size)
        listed, files, total = hashlib.sha256(), 0, 0
        with self._target.create(SUMS) as file:
            for name, sha256, size in self._sums.execute("SELECT * FROM sums ORDER BY name"):
                line = _line(name, sha256)
                file.write(line)
                listed.update(line)
                files, total = files + 1, total + size
        return SumsDigest(files=files, bytes=total, sha256=listed.hexdigest())

    def _note(self, name: str, sha256: str, size: int) -> None:
        if name != RECORD:
            self._sums.execute(
                "INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", (_encoded(name), sha256, size)
            )


def read_sums(listed: bytes) -> dict[str, str]:
    """SHA-256 (hex) by name, of a list. A `ValueError` if it is none."""
    sums = {}
    for line in listed.removesuffix(b"\n").split(b"\n"):
        escaped = line.startswith(b"\\")
        sha256, separator, name = line.removeprefix(b"\\").partition(b"  ")
        if len(sha256) != 64 or not separator or not name:
            raise ValueError(f"{line[:80]!r} is no line of {SUMS}")
        if escaped:
            name = _ESCAPED.sub(lambda found: b"\n" if found[1] == b"n" else b"\\", name)
        sums[name.decode("utf-8", "surrogateescape")] = sha256.decode("ascii")
    return sums


class _SummedFile(io.RawIOBase):
    """A file that is only written to; it belongs to whoever opened it, who also closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        size = self._file.write(data)
        self.digest.update(data)
        self.size += size
        return size

    def tell(self) -> int:
        return self.size


def _line(name: bytes, sha256: str) -> bytes:
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    return b"%s%s  %s\n" % (b"\\" * (escaped != name), sha256.encode(), escaped)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
