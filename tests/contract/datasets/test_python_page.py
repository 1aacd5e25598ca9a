"""docs/python.md: its examples run, on both databases."""

import ast
import re
from pathlib import Path

import pytest

import imagemill
from imagemill.db.database import Database
from imagemill.db.storage.folder import FolderStorage
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill
from tests.helpers.places import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
_PROMPTS = re.search(r"^```python run\n.*?^prompts = (\[.*?\])$", PAGE, re.M | re.S)
assert _PROMPTS
ROWS = [{"prompt": prompt} for prompt in ast.literal_eval(_PROMPTS[1])]
"""What the page's first example renders: who follows the page reads that."""


@pytest.fixture
def place(mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database with a finished job, which the settings name and the page's folder stands for."""
    finished_job(mill, FolderStorage(tmp_path / "objects"), tmp_path, ROWS)
    url = mill.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEMILL_DATABASE_URL", url)
    monkeypatch.setenv("IMAGEMILL_STORAGE_URL", str(tmp_path / "objects"))
    monkeypatch.setenv("IMAGEMILL_BROKER_URL", "redis://127.0.0.1:1/0")
    opened = imagemill.open
    monkeypatch.setattr(imagemill, "open", lambda _: opened(), raising=False)
    return mill.database


@pytest.mark.filterwarnings("ignore")  # of the libraries that the page shows
@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
@pytest.mark.usefixtures("place")
def test_code_of_the_page_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(code, {})
    assert capsys.readouterr().out


def test_every_option_of_a_job_is_named() -> None:
    from imagemill.submitter import _JOB_OPTIONS

    assert [name for name in _JOB_OPTIONS if f"`{name}`" not in PAGE] == []
