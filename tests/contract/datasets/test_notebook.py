"""In a notebook: a bar that is changed in place, and pictures under the cell; without a kernel."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

import imagemill
from imagemill import notebook
from imagemill.db.queries.tallies import Counts
from imagemill.db.storage.folder import FolderStorage
from imagemill.reader import Mill as Reader
from tests.helpers.dataset import finished_job
from tests.helpers.mill import REFUSED, Mill


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A shell without a terminal, which keeps what cells publish."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    found = InteractiveShell.instance()
    found.display_pub = CapturingDisplayPublisher()
    yield found
    InteractiveShell.clear_instance()


def published(shell: InteractiveShell) -> list[dict[str, Any]]:
    assert isinstance(shell.display_pub, CapturingDisplayPublisher)
    return list(shell.display_pub.outputs)


def test_progress_is_one_output_that_changes(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "_SECONDS", 0.0)
    with notebook.progress("shapes <b>") as show:
        for done in range(4):
            show(Counts(ready=3 - done, done=done), "starting the worker" if not done else "")
        show(Counts(done=3, dead=1), "")
        show(Counts(done=3, dead=1), "")
    outputs = published(shell)
    assert [output["update"] for output in outputs] == [False] + [True] * (len(outputs) - 1)
    sent = [output["data"] for output in outputs]
    assert len(sent) >= 6
    assert all(one != other for one, other in pairwise(sent)), "nothing is sent twice in a row"
    assert len({output["transient"]["display_id"] for output in outputs}) == 1
    assert outputs[1]["data"]["text/plain"] == "shapes <b>: 0/3 · starting the worker"
    assert outputs[-1]["data"]["text/plain"].startswith("shapes <b>: 3/4 · 1 dead")
    assert "shapes &lt;b&gt;" in outputs[-1]["data"]["text/html"]
    assert re.findall(r"width:([0-9.]+)%", outputs[-1]["data"]["text/html"]) == ["75.00", "25.00"]


def test_elsewhere_it_is_text_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert not notebook.in_notebook()
    with notebook.progress("shapes") as show:
        show(Counts(ready=1, done=1), "")
    with notebook.progress("hidden", shown=False) as show:
        show(Counts(done=1), "")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "shapes: 1/2\n")


def test_a_job_shows_its_pictures(shell: InteractiveShell, mill: Mill, tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "objects")
    rows = [{"prompt": f"<script>{n}</script>", "id": f"p{n}"} for n in range(30)]
    job_id = finished_job(mill, storage, tmp_path, rows, samples=1)
    reader = Reader(mill.database, storage)
    job = imagemill.Job(reader, job_id, "set")
    shell.user_ns["job"] = job
    data, _ = shell.display_formatter.format(job)
    page = data["text/html"]
    assert data["text/plain"] == f"<job {job_id} (set): 30/30 · finished>"
    assert page.count("<img ") == notebook.SHOWN_PICTURES
    assert "the first 24 of 30 pictures" in page
    assert "<script" not in page
    assert "row p0 · sample 0" in page
    [first] = [image for image in job.images() if image["row_key"] == "p0"]
    storage.delete(first["object_key"])
    assert job._repr_html_().count("<img ") == notebook.SHOWN_PICTURES - 1, "a missing file is told"
    images, _ = shell.display_formatter.format(job.images())
    assert images["text/html"].count("<img ") == notebook.SHOWN_PICTURES - 1
    one, _ = shell.display_formatter.format(next(iter(job.images(where="row_key = 'p1'"))))
    assert one["text/html"].count("<img ") == 1


def test_a_job_says_why_images_are_dead(mill: Mill, tmp_path: Path) -> None:
    job_id = mill.load("job", ["a", "b"])
    shift = mill.shift()
    first, _ = mill.claim(shift, limit=2)
    mill.begin(shift, [first.id])
    mill.fail(shift, first.id, REFUSED)
    job = imagemill.Job(Reader(mill.database, FolderStorage(tmp_path)), job_id, "job")
    assert "row 1: input_image: it is no picture" in job._repr_html_()
    mill.cancel(job_id)
    mill.end(shift)
    mill.cancel_stragglers()
    assert job.wait(seconds=9, progress=False) is job
    assert job.state == "cancelled"
