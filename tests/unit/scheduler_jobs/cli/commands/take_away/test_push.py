"""`imagemill push` by the command line: which export is meant, before the Hub is asked."""

from pathlib import Path

import pytest

from imagemill.db.database import Database
from imagemill.db.queries.pictures.exports import record_export
from imagemill.db.settings import Settings
from tests.unit.conftest import CommandLine


def recorded(home: Path, target: str) -> None:
    database = Database.from_settings(Settings.for_home(home))
    document = {"format": "flat", "images": 1, "digest": "0" * 64}
    database.run(lambda session: record_export(session, target=target, document=document))
    database.close()


@pytest.mark.parametrize("export", ["1", "latest"])
def test_an_export_is_found_by_its_number(
    home: Path, at_home: CommandLine, tmp_path: Path, export: str
) -> None:
    recorded(home, str(tmp_path / "set"))
    gone = at_home("push", export, "me/set")
    assert gone.code == 2
    assert "export 1: its folder" in gone.err
    (tmp_path / "set").mkdir()
    assert "it is no export" in at_home("push", export, "me/set").err


def test_an_export_in_a_bucket_must_be_copied_first(home: Path, at_home: CommandLine) -> None:
    recorded(home, "s3://sets/shapes")
    answer = at_home("push", "1", "me/set", "--json")
    assert answer.code == 2
    assert "is in a bucket (s3://sets/shapes)" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["7", "me/set"], "no export '7'"),
        (["nowhere", "me/set"], "nowhere: no such folder"),
        (["1", "set"], "expected a repository as user/name"),
        (["1", "me/my/set"], "expected a repository as user/name"),
    ],
)
def test_what_is_not_there_is_one_line(at_home: CommandLine, words: list[str], said: str) -> None:
    answer = at_home("push", *words)
    assert answer.code == 2
    assert said in answer.err
