"""How the launcher of PostgreSQL makes a data folder."""

from pathlib import Path

import psycopg
import pytest

from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.postgres import PostgresServer, runs_as_other_user


@pytest.mark.parametrize(("durable", "at_once"), [(True, False), (False, True)])
def test_data_that_must_last_are_on_the_disk_first(tmp_path: Path, durable: bool, at_once: bool):
    if runs_as_other_user():
        pytest.skip("nobody can't reach a folder of pytest's")
    folder = tmp_path / "postgres"
    folder.mkdir()
    program = tmp_path / "initdb"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$2/arguments"\n')
    program.chmod(0o755)
    server = PostgresServer(
        folder, port=1, user="me", password="secret", log=tmp_path / "log", durable=durable
    )
    server._binaries = tmp_path
    server._initialise()
    given = (folder / "data" / "arguments").read_text().splitlines()
    assert ("--no-sync" in given) == at_once
    assert "secret" not in given
    assert not (folder / "password").exists()


@pytest.mark.parametrize(("status", "waits"), [("starting", True), ("ready   ", False)])
def test_a_long_recovery_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, waits: bool
):
    """The server does not answer for longer than a start may take, but says that it starts."""
    if runs_as_other_user():
        pytest.skip("nobody can't reach a folder of pytest's")
    (tmp_path / "data").mkdir()
    server = PostgresServer(
        tmp_path, port=1, user="me", password="secret", log=tmp_path / "log", durable=True
    )
    server._process = TetheredProcess(["/bin/sleep", "600"])
    lines = [str(server.pid), str(server._data), "1764400000", "1", "", "127.0.0.1", "0 0", status]
    (server._data / "postmaster.pid").write_text("\n".join(lines) + "\n")
    asked: list[str] = []

    class Connection:
        def close(self) -> None:
            """Nothing is open."""

    def connect(dsn: str, **_: object) -> Connection:
        asked.append(dsn)
        if len(asked) < 5:
            raise psycopg.OperationalError("the database system is starting up")
        return Connection()

    monkeypatch.setattr(psycopg, "connect", connect)
    try:
        assert server._answers(give_up=0.0) == waits
        (server._data / "postmaster.pid").write_text("\n".join(["1", *lines[1:]]))
        asked.clear()
        assert not server._answers(give_up=0.0), "it is the file of a server of before"
    finally:
        server._process.kill()
