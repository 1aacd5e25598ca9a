"""`edit` and `owners`, deadlines and needed labels, and what a submission says of its turn."""

import getpass
import re

from imagemill.scheduler_jobs.owners import this_user


def test_a_job_is_edited(at_home, mill):
    mill.load("job", ["a"])
    told = at_home("edit", "job", "--priority", 5, "--max-workers", 2, "--weight", 3).out
    assert told == "job 1 (job): priority 5, weight 3, workers: at most 2\n"
    assert at_home("edit", "job").out == told, "without an option it shows what is set"
    for shown in ("priority", "weight", "at most 2"):
        assert shown in at_home("status", "job").out
    told = at_home("edit", "job", "--max-workers", 0, "--json").json
    assert told["max_workers"] is None
    mill.cancel(1)
    answer = at_home("edit", "job", "--priority", 1)
    assert answer.code == 2
    assert "job 1 (job) is cancelled: nothing can be changed" in answer.err
    assert at_home("edit", "nobody", "--priority", 1).code == 2
    assert at_home("edit", "job", "--max-workers", -1).code == 2


def test_owners_are_listed_and_weighed(at_home, mill):
    assert at_home("owners").out == "nobody has an open job\n"
    mill.load("hers", ["a", "b"], owner="anna")
    mill.load("old", ["c"])
    assert at_home("owners", "weigh", "anna", 3).out == "owner anna has the weight 3\n"
    lines = at_home("owners").out.splitlines()
    assert lines[0].split() == ["OWNER", "WEIGHT", "OPEN", "JOBS", "READY", "IN", "WORK"]
    assert lines[1].split() == ["(unknown)", "1", "1", "1", "0"]
    assert lines[2].split() == ["anna", "3", "1", "2", "0"]
    assert at_home("owners", "--json").json["owners"][1]["owner"] == "anna"
    for bad in (("anna", 0), ("anna", 1001), ("", 1), ("x" * 65, 1)):
        assert at_home("owners", "weigh", *bad).code == 2


def test_several_owners_have_a_column(at_home, mill):
    mill.load("hers", ["a"], owner="anna")
    assert "OWNER" not in at_home("jobs").out
    mill.load("his", ["b"], owner="bob")
    shown = at_home("jobs").out
    assert "OWNER" in shown
    assert "anna" in shown
    assert "owner" in at_home("status", "hers").out


def test_whoever_has_no_name_has_a_number(monkeypatch):
    assert this_user() == getpass.getuser()

    def nobody():
        raise OSError("no username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert this_user().startswith("uid ")


def test_a_deadline_is_shown_and_changed(at_home, mill, tmp_path):
    mill.load("job", ["a"])
    assert "deadline" not in at_home("status", "job").out
    assert "deadline 20" in at_home("edit", "job", "--deadline", "12h").out
    assert re.search(r"deadline +20.* UTC, in 1[12]", at_home("status", "job").out)
    assert at_home("edit", "job", "--deadline", "none", "--json").json["deadline_at"] is None
    answer = at_home("edit", "job", "--deadline", "soon")
    assert answer.code == 2
    assert "is neither a duration, such as 12h" in answer.err


def test_a_plan_says_whether_the_deadline_is_met(at_home, mill, tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("prompt\na red circle\n")
    told = at_home("plan", file, "--deadline", "1h").out
    assert "no image of this kind was measured, so nobody knows" in told
    assert at_home("plan", file, "--deadline", "1h", "--json").json["deadline"] == []


def test_a_job_that_needs_labels_which_nobody_has_says_so(at_home, mill):
    mill.load("job", ["a"], needs={"gpu": "h100"})
    told = "job 1 (job) waits: no live worker on its route has the labels gpu=h100"
    assert told in at_home("status").out
    assert told in at_home("status", "job").out
    mill.worker("w@box:1", labels={"gpu": "h100"})
    assert "waits: no live worker" not in at_home("status").out


def test_the_labels_that_a_job_needs_are_changed(at_home, mill):
    mill.load("job", ["a"], needs={"gpu": "h100"})
    fit = mill.worker("w@box:1", labels={"gpu": "a100", "nvlink": ""})
    assert mill.choose(worker_id=fit) is None
    answer = at_home("edit", "job", "--needs", "gpu=a100", "--needs", "nvlink")
    assert answer.out.endswith(", needs gpu=a100 nvlink\n")
    assert answer.err == ""
    assert mill.choose(worker_id=fit) is not None
    answer = at_home("edit", "job", "--needs", "zone=b", "--json")
    assert answer.json["needs"] == {"zone": "b"}
    answer = at_home("edit", "job", "--needs", "zone=b")
    assert "no live worker has the labels zone=b" in answer.err
    assert at_home("edit", "job", "--weight", 2, "--json").json["needs"] == {"zone": "b"}
    assert "needs" not in at_home("edit", "job", "--needs", "none").out
    for bad in ("=x", "none,", "a b"):
        assert at_home("edit", "job", "--needs", bad).code == 2
