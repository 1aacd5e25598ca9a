"""Labels and notes: set, taken away, shown, and found again."""

import pytest


@pytest.fixture
def jobs(mill):
    """Two jobs, the first with labels and a note."""
    return mill.load("faces", ["a circle"]), mill.load("plain", ["a star"])


def listed(answer):
    return [job["job_name"] for job in answer.json["jobs"]]


def test_labels_are_set_changed_and_taken_away(at_home, jobs):
    assert at_home("label", "faces").out == "job 1 (faces): no labels\n"
    assert at_home("label", "faces", "team=a", "keep").out == "job 1 (faces): keep team=a\n"
    changed = at_home("label", "faces", "team=b", "-keep", "--json").json
    assert changed == {"job_id": 1, "job_name": "faces", "labels": {"team": "b"}}
    assert at_home("label", "faces", "-never", "-team", "--json").json["labels"] == {}


def test_jobs_are_found_by_their_labels(at_home, jobs):
    at_home("label", "faces", "team=a", "keep")
    at_home("label", "plain", "team=b")
    assert listed(at_home("jobs", "--label", "team", "--json")) == ["plain", "faces"]
    assert listed(at_home("jobs", "--label", "team=a", "--label", "keep", "--json")) == ["faces"]
    assert listed(at_home("jobs", "--label", "team=a", "--label", "team=b", "--json")) == []
    assert listed(at_home("jobs", "--label", "keep=", "--json")) == ["faces"]


def test_status_and_jobs_show_labels_and_note(at_home, jobs):
    assert "LABELS" not in at_home("jobs").out
    at_home("label", "faces", "team=a", "keep")
    at_home("note", "faces", " for the October\nrelease ")
    table = at_home("jobs").out
    assert "LABELS" in table
    assert "keep team=a  for the October release" in table
    shown = at_home("status", "faces")
    assert "labels     keep team=a" in shown.out
    assert "note       for the October release" in shown.out
    job = at_home("status", "faces", "--json").json["job"]
    assert job["labels"] == {"keep": "", "team": "a"}
    assert job["note"] == "for the October\nrelease"


def test_a_note_is_replaced_and_taken_away(at_home, jobs):
    assert at_home("note", "plain").out == "job 2 (plain): no note\n"
    at_home("note", "plain", "one")
    assert at_home("note", "plain", "two", "--json").json["note"] == "two"
    assert at_home("note", "plain", "", "--json").json["note"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["label", "faces", "two words=x"], "a key is a letter or digit"),
        (["label", "faces", "=x"], "a key is a letter or digit"),
        (["label", "faces", "a=\x07"], "on one line"),
        (["label", "faces", "a=" + "x" * 201], "at most 200 characters"),
        (["label", "faces", "a=1", "a=2"], "label a has two values"),
        (["label", "faces", "a=1", "-a"], "both set and taken away"),
        (["label", "faces", "--nothing"], "No such option"),
        (["label", "nobody", "a=1"], "no job 'nobody'"),
        (["note", "faces", "x" * 10_001], "at most 10,000"),
        (["note", "faces", "a\x00b"], "control characters"),
        (["jobs", "--label", "-"], "a key is a letter or digit"),
    ],
)
def test_what_no_label_can_be_is_refused_in_one_line(at_home, jobs, words, said):
    answer = at_home(*words)
    assert answer.code == 2
    assert said in answer.err
    assert at_home("label", "faces", "--json").json["labels"] == {}


def test_submit_gives_labels_to_a_new_job_and_to_the_same_again(at_home, home, tmp_path):
    (home / "objects").mkdir()
    manifest = tmp_path / "m.csv"
    manifest.write_text("prompt\na red circle\n")
    first = at_home("submit", manifest, "--label", "team=a", "--label", "x", "--json").json
    again = at_home("submit", manifest, "--label", "team=b", "--json").json
    assert (first["job_id"], again["created"]) == (again["job_id"], False)
    assert at_home("label", "latest", "--json").json["labels"] == {"team": "b", "x": ""}
    assert at_home("submit", manifest, "--label", "a b").code == 2
