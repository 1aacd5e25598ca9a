"""What became done since a reader was here last, in an order that no commit can slip behind.

Each image's history gets a line when it becomes done. On Postgres the ids of such lines are handed
out before their transactions end, so a lower id may become visible after a higher one, and a reader
that remembers the highest id would lose it. So readers go by the number of the transaction that
wrote a line, and only up to `pg_snapshot_xmin`: every transaction below it is over, and one that is
not over yet gets, or has, a number from there on. On SQLite there is one writer at a time, and so
ids become visible in their order.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import text
from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError

PAGE = 1_000

_TEXT = re.compile(r"pg:(\d+):(\d+):(\d+)|sqlite:(\d+):(\d+):([0-9: .-]*)")

_PLACE = """
SELECT (pg_control_system()).system_identifier AS system,
  (SELECT oid FROM pg_database WHERE datname = current_database()) AS base,
  CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS oldest,
  CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS next
"""
_FOUND = """
SELECT a.id, a.image_id, CAST(a.transaction_id AS text) AS written
FROM attempts AS a JOIN images AS i ON i.id = a.image_id
WHERE a.event = 'done' AND i.state = 'done' AND a.generation = i.generation
  AND (CAST(:job AS bigint) IS NULL OR i.job_id = :job)
"""
_BEFORE_NUMBERS = f"{_FOUND} AND a.transaction_id IS NULL AND a.id > :id ORDER BY a.id LIMIT {PAGE}"
_NUMBERED = f"""{_FOUND}
  AND (a.transaction_id, a.id) > (CAST(:written AS xid8), :id)
  AND (a.transaction_id < CAST(:end AS xid8))
ORDER BY a.transaction_id, a.id LIMIT {PAGE}
"""
_BY_ID = f"{_FOUND} AND a.id > :id ORDER BY a.id LIMIT {PAGE}"

_LAST = "SELECT id, image_id, at FROM attempts ORDER BY id DESC LIMIT 1"
_LINE = "SELECT image_id, at FROM attempts WHERE id = :id"

_NO_MORE = str(2**64 - 1)
"""Beyond any number of a transaction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where a reader was: what it says of the database, and the position there.

    On Postgres `place` is the server and the database, `position` a transaction's number. On SQLite
    `position` is the id of the last line of the history and `place` that line itself, by which it
    is known again.
    """

    kind: str
    place: tuple[str, str]
    position: int

    def __str__(self) -> str:
        if self.kind == "pg":
            return f"pg:{self.place[0]}:{self.place[1]}:{self.position}"
        return f"sqlite:{self.position}:{self.place[0]}:{self.place[1]}"

    @classmethod
    def read(cls, cursor: str) -> Self:
        """The cursor that a text stands for. Raises `UsageError` if it is none."""
        found = _TEXT.fullmatch(cursor) if isinstance(cursor, str) else None
        if found is None:
            raise UsageError(f"{str(cursor)[:80]!r} is no cursor; use one that was given, or None")
        if found[1] is not None:
            return cls(kind="pg", place=(found[1], found[2]), position=int(found[3]))
        return cls(kind="sqlite", place=(found[5], found[6]), position=int(found[4]))


def finished_since(
    session: Session, since: Cursor | None, *, job_id: int | None = None
) -> tuple[Cursor, Iterator[list[int]]]:
    """The cursor for the next time, and pages of the images that became done since.

    Both are of the session's snapshot, which must stay the same until the pages were read (so of
    `Database.reading`). An image comes once. It comes again after a later cursor only if it was
    rendered again in between.

    Raises:
        UsageError: the cursor is of another database, or what it stands on was removed.
    """
    if session.get_bind().dialect.name == "postgresql":
        return _of_postgres(session, since, job_id)
    return _of_sqlite(session, since, job_id)


def _of_postgres(
    session: Session, since: Cursor | None, job_id: int | None
) -> tuple[Cursor, Iterator[list[int]]]:
    now = session.execute(text(_PLACE)).one()
    place = (str(now.system), str(now.base))
    if since is not None and (since.kind, since.place) != ("pg", place):
        raise UsageError("this cursor is of another database, or of before it was restored")
    # A standby may be behind the server that gave the cursor.
    position = max(int(now.oldest), 0 if since is None else since.position)
    cursor = Cursor(kind="pg", place=place, position=position)

    def pages() -> Iterator[list[int]]:
        parameters = {"job": job_id, "end": now.oldest}
        if since is not None:
            yield from _pages(session, _NUMBERED, parameters, since.position)
            return
        yield from _pages(session, _BEFORE_NUMBERS, parameters, 0)
        yield from _pages(session, _NUMBERED, parameters, 0)
        # Numbers that this server has not reached: what was restored from another one.
        yield from _pages(session, _NUMBERED, parameters | {"end": _NO_MORE}, int(now.next))

    return cursor, pages()


def _of_sqlite(
    session: Session, since: Cursor | None, job_id: int | None
) -> tuple[Cursor, Iterator[list[int]]]:
    if since is not None and since.position:
        line = session.execute(text(_LINE), {"id": since.position}).one_or_none()
        # If that line is gone, its number and those after it may have been given out again.
        if line is None or since.kind != "sqlite" or _named(line) != since.place:
            raise UsageError(
                "this cursor is of another database, or what it stands on was removed; "
                "begin again without one"
            )
    last = session.execute(text(_LAST)).one_or_none()
    cursor = Cursor(kind="sqlite", place=("0", ""), position=0)
    if last is not None:
        cursor = Cursor(kind="sqlite", place=_named(last), position=last.id)

    def pages() -> Iterator[list[int]]:
        after = 0 if since is None else since.position
        while page := session.execute(text(_BY_ID), {"job": job_id, "id": after}).all():
            yield [row.image_id for row in page]
            after = page[-1].id

    return cursor, pages()


def _named(line: Any) -> tuple[str, str]:
    return str(line.image_id), str(line.at)


def _pages(
    session: Session, query: str, parameters: dict[str, Any], written: int
) -> Iterator[list[int]]:
    place = {"written": str(written), "id": 0}
    while page := session.execute(text(query), parameters | place).all():
        yield [row.image_id for row in page]
        place = {"written": page[-1].written, "id": page[-1].id}
