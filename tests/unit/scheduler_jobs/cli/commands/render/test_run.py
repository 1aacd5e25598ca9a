"""`run`: from flags to a request, from results to words."""

import json
import signal

import pytest

from imagemill.db.queries.tallies import Counts
from imagemill.scheduler_jobs.local import run as embedded_run
from imagemill.scheduler_jobs.manifest import ColumnReport, RowText
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import ForeignRows
from tests.helpers.pretended import a_result


def test_run_takes_prompts(imagemill, tmp_path, pretended_run):
    seen = pretended_run()
    assert imagemill("run", "--prompt", "a ring", "--out", tmp_path / "out").code == 0
    assert seen[0][0].prompts == ("a ring",)


def test_run_ends_with_one_object_of_exactly_these_keys(
    imagemill, manifest, tmp_path, pretended_run
):
    (seen, out) = pretended_run(), tmp_path / "out"
    answer = imagemill("run", manifest, "--out", out, "--samples", 2, "--json")
    assert answer.code == 0
    assert list(json.loads(answer.out)) == [
        *("job_id", "job_name", "requested", "rendered", "reused", "done", "dead"),
        *("seconds", "images_per_second", "database", "output", "pictures", "foreign_syntax"),
        *("without_effect", "columns"),
    ]
    request, settings, where = seen[0]
    assert where == out
    assert request.defaults.samples == 2
    assert settings.database_url.get_secret_value().endswith("out/imagemill.sqlite3")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({}, 0, "2 images done of 2; rendered 2 in 4 s (0.50 images/s once started);"),
        ({"images_per_second": None}, 0, "rendered 2 in 4 s; reused 0"),
        ({"rendered": 0}, 0, "nothing to do: 2 images done of 2"),
        ({"done": 1, "dead": 1}, 1, "errors 1` says what went wrong"),
        ({"done": 1, "interrupted": True}, 130, "goes on where it stopped"),
    ],
)
def test_run_says_how_it_ended(imagemill, manifest, tmp_path, pretended_run, changes, code, words):
    pretended_run(**changes)
    answer = imagemill("run", manifest, "--out", tmp_path / "out")
    assert answer.code == code
    assert words in answer.out
    assert "contact-sheet.png" in answer.out


def test_run_needs_a_folder(imagemill, manifest):
    answer = imagemill("run", manifest)
    assert answer.code == 2
    assert "--out DIR" in answer.err


def test_ctrl_c_is_answered_at_once_and_ends_the_run_cleanly(
    imagemill, manifest, tmp_path, monkeypatch
):
    def run(request, *, settings, out, progress, early):
        progress(Counts(ready=2))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return a_result(out, done=0, rendered=0, interrupted=True)

    monkeypatch.setattr(embedded_run, "run", run)
    before = signal.getsignal(signal.SIGINT)
    answer = imagemill("run", manifest, "--out", tmp_path / "out")
    assert answer.code == 130
    assert "stopping" in answer.err
    assert signal.getsignal(signal.SIGINT) is before


def test_run_names_the_extras_in_one_line(imagemill, manifest, tmp_path, pretended_run):
    pretended_run(columns=(ColumnReport(column="Mood", role="extra", example="calm"),))
    answer = imagemill("run", manifest, "--out", tmp_path / "out")
    assert "kept as 1 extra, without effect: Mood" in answer.out.splitlines()


def test_run_says_what_it_rendered_as_words(imagemill, manifest, tmp_path, pretended_run):
    pretended_run(
        foreign_syntax=(
            ForeignRows(kind="flags", rows=9, examples=(RowText(row=2, text="--v 5"),)),
        )
    )
    answer = imagemill("run", manifest, "--out", tmp_path / "out")
    assert "9 rows with another tool's flags" in answer.out
    assert "(row 2: --v 5, …)" in answer.out
