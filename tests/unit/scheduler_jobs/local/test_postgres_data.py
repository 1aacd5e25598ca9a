"""How the launcher of PostgreSQL makes a data folder."""

from pathlib import Path

import pytest

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
