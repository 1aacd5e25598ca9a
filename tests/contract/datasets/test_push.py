"""`imagemill push` with the real client, against a stand-in of the Hub."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imagemill.db.database import Database
from imagemill.db.errors import HubError, UsageError
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.exports import push as push_module
from imagemill.scheduler_jobs.exports.export import ExportOptions
from imagemill.scheduler_jobs.exports.pictures import PictureForm
from imagemill.scheduler_jobs.exports.push import PushResult, checked_files, push
from imagemill.scheduler_jobs.exports.run import run_export
from imagemill.scheduler_jobs.exports.selection import Selection
from imagemill.scheduler_jobs.exports.target import FolderTarget
from tests.helpers.dataset import finished_job
from tests.helpers.http.hub import Hub, Repository, serving
from tests.helpers.mill import Mill


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # Xet is another protocol than the Hub's own; what it carries is the same.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


@pytest.fixture
def out(sqlite_database: Database, folder_storage: FolderStorage, tmp_path: Path) -> Path:
    mill = Mill(sqlite_database)
    job = finished_job(mill, folder_storage, tmp_path, samples=4)
    run_export(
        mill.database,
        folder_storage,
        FolderTarget(tmp_path / "out"),
        export_format="imagefolder",
        selection=Selection(jobs=[job]),
        options=ExportOptions(form=PictureForm()),
        progress=lambda *_: None,
    )
    return tmp_path / "out"


def pushed(hub: Hub, out: Path, repository: str = "me/set", **fields: Any) -> PushResult:
    options = {"branch": "main", "private": False, "delete_others": False} | fields
    options.setdefault("progress", lambda *_: None)
    return push(out, repository, endpoint=hub.url, **options)


def local(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }


def remote(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    files = dict(hub.repositories["me/set"].branches[branch])
    del files[".gitattributes"]
    return files


def test_the_hub_holds_what_the_folder_holds(hub: Hub, out: Path) -> None:
    steps: list[tuple[int, int]] = []
    result = pushed(hub, out, private=True, progress=lambda *step: steps.append(step))
    assert remote(hub) == local(out)
    assert hub.repositories["me/set"].private
    assert (result.uploaded, result.present) == (17, 0)
    assert result.url == f"{hub.url}/datasets/me/set"
    assert (steps[0], steps[-1]) == ((0, 17), (17, 17))
    again = pushed(hub, out)
    assert (again.uploaded, again.present) == (0, 17)
    assert len(hub.puts) == 13
    assert len(hub.repositories["me/set"].commits) == 1


def test_an_interrupted_push_uploads_only_what_lacks(
    hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "BATCH_FILES", 4)

    def cut(request: Request) -> Response | None:
        refused = request.method == "PUT" and len(hub.puts) >= 6
        return JSONResponse({}, status_code=400) if refused else None

    hub.fault = cut
    with pytest.raises(UsageError, match="the Hub answered 400"):
        pushed(hub, out)
    assert 4 <= len(remote(hub)) < 8
    assert "README.md" not in remote(hub)
    hub.fault = lambda _request: None
    result = pushed(hub, out)
    assert result.present == 4
    assert remote(hub) == local(out)
    assert len(hub.puts) == len(set(hub.puts)) == 13
    assert hub.repositories["me/set"].commits[-1][-1] == "README.md"


def test_a_killed_push_goes_on_with_the_same_command(hub: Hub, out: Path) -> None:
    """The command itself, killed while the Hub holds back its answer."""
    reached = threading.Event()

    def hold(request: Request) -> Response | None:
        if request.method == "PUT" and len(hub.puts) >= 3:
            reached.set()
            return JSONResponse({}, status_code=503)
        return None

    hub.fault = hold
    command = [sys.executable, "-m", "imagemill", "push", str(out), "me/set", "--json"]
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
    }
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert reached.wait(240)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    before = len(hub.puts)
    hub.fault = lambda _request: None
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)["push"]["uploaded"] == 17
    assert 3 <= before < 13
    assert len(hub.puts) == len(set(hub.puts)) == 13
    assert remote(hub) == local(out)


def test_where_xet_does_not_get_through_the_same_goes_by_lfs(
    hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """hf_xet itself, against a Hub that has no xet: the client does not fall back by itself."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    assert pushed(hub, out).uploaded == 17
    assert remote(hub) == local(out)
    [warned] = [each.message for each in caplog.records if "xet" in each.message]
    assert re.match("uploading by xet failed: .*404 Not Found.*; going on by LFS", warned)


def test_a_branch_is_created_and_main_stays(hub: Hub, out: Path) -> None:
    result = pushed(hub, out, branch="v2")
    assert remote(hub) == {}
    assert remote(hub, "v2") == local(out)
    assert result.url.endswith("/datasets/me/set/tree/v2")
    assert pushed(hub, out, branch="v2").uploaded == 0


def test_other_files_are_not_mixed_in_and_are_removed_when_asked(hub: Hub, out: Path) -> None:
    hub.repositories["me/set"] = Repository(private=False)
    hub.repositories["me/set"].branches["main"]["train/old.png"] = b"old"
    with pytest.raises(UsageError, match=r"1 files that are not .*train/old\.png.*--delete-others"):
        pushed(hub, out)
    assert remote(hub) == {"train/old.png": b"old"}
    assert pushed(hub, out, delete_others=True).deleted == 1
    assert remote(hub) == local(out)
    hub.repositories["me/set"].branches["main"]["late.txt"] = b"late"
    result = pushed(hub, out, delete_others=True)
    assert (result.uploaded, result.deleted) == (0, 1)
    assert remote(hub) == local(out)


def test_an_edited_card_goes_up(hub: Hub, out: Path) -> None:
    pushed(hub, out)
    card = out / "README.md"
    card.write_text(card.read_text() + "\nMade for the tests.\n")
    assert pushed(hub, out).uploaded == 1
    assert remote(hub)["README.md"].endswith(b"Made for the tests.\n")


def damaged(out: Path) -> None:
    picture = next(out.rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-1] + b"!")


def unfinished(out: Path) -> None:
    record = json.loads((out / "imagemill_export.json").read_text())
    (out / "imagemill_export.json").write_text(json.dumps({**record, "complete": False}))


def earlier(out: Path) -> None:
    record = json.loads((out / "imagemill_export.json").read_text())
    del record["files"]
    (out / "imagemill_export.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damaged, "was changed"),
        (unfinished, "is not complete"),
        (earlier, "an earlier version"),
        (lambda out: next(out.rglob("*.png")).unlink(), "is missing"),
        (lambda out: (out / "notes.txt").write_text("mine"), "notes.txt is not of the export"),
        (lambda out: (out / "SHA256SUMS").write_text(""), "not the one that the export wrote"),
        (lambda out: (out / "imagemill_export.json").write_text("[]"), "can't be read"),
        (lambda out: (out / "imagemill_export.json").unlink(), "it is no export"),
    ],
)
def test_what_is_no_whole_export_is_refused_before_the_hub_is_asked(
    hub: Hub, out: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(out)
    with pytest.raises(UsageError, match=said):
        pushed(hub, out)
    assert hub.requests == []


def test_leftovers_of_a_killed_export_are_no_files_of_it(out: Path) -> None:
    (out / "train/.unfinished-1").write_bytes(b"half")
    assert len(checked_files(out)) == 17


@pytest.mark.parametrize(
    ("token", "repository", "said"),
    [
        ("hf_wrong", "me/set", r"does not know this token \(401\)"),
        ("hf_reads", "me/set", r"may not write there \(403\)"),
        ("hf_writes", "somebody/set", r"may not write there \(403\)"),
        ("hf_writes", "me/..bad name", "me/..bad name: "),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: Hub,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    repository: str,
    said: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=said) as caught:
        pushed(hub, out, repository)
    assert "\n" not in caught.value.message


def test_a_public_repository_does_not_pass_for_a_private_one(hub: Hub, out: Path) -> None:
    hub.repositories["me/set"] = Repository(private=False)
    with pytest.raises(UsageError, match="there already and public"):
        pushed(hub, out, private=True)
    assert remote(hub) == {}


def test_a_bad_card_is_refused_by_what_the_hub_says_of_it(hub: Hub, out: Path) -> None:
    (out / "README.md").write_text("---\ntags: [1, 2]\n---\n")
    with pytest.raises(UsageError, match=r"Invalid metadata in README\.md"):
        pushed(hub, out)


def test_no_hub_and_no_token_are_one_line(
    out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_any")
    with pytest.raises(HubError, match="can't be reached"):
        pushed(Hub(url="http://127.0.0.1:1"), out)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no token for the Hub"):
        pushed(Hub(url="http://127.0.0.1:1"), out)
