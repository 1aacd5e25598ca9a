"""`workers`, and the orders to drain, resume, pin and unpin."""

from imagemill.db.queries.work import shifts


def test_the_fleet_is_listed(at_home, mill):
    mill.load("job", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    shown = at_home("workers").out
    assert shown.split("\n")[0].split() == [
        *("WORKER", "DEVICE", "ROUTE", "MODEL", "B", "IMAGES/S", "DOES", "SINCE")
    ]
    assert "renders" in shown
    (worker,) = at_home("workers", "--json").json["workers"]
    assert (worker["worker"], worker["state"], worker["model"]) == (
        "w@host",
        "renders",
        "model-aaaa",
    )
    assert worker["images_per_second"] > 0


def test_drain_and_resume(at_home, mill):
    assert at_home("workers", "drain", "host").out == "1 process told to drain:\n  w@host\n"
    assert at_home("workers", "--json").json["workers"][0]["state"] == "drained"
    told = at_home("workers", "resume", "w", "--json").json
    assert told == {"workers": ["w@host"], "draining": False}
    assert at_home("workers", "--json").json["workers"][0]["state"] == "waits"


def test_pin_and_unpin(at_home, mill):
    mill.load("job", ["a"])
    told = at_home("workers", "pin", "host", "job").out
    assert told == "1 process told to take only images of job 1 (job):\n  w@host\n"
    assert "PINNED TO" in at_home("workers").out
    assert "job 1" in at_home("workers").out
    told = at_home("workers", "pin", "w@host", "model:m-aaaa", "--json").json
    assert told["workers"] == ["w@host"]
    assert told["pinned"]["model"] == "m-aaaa"
    (worker,) = at_home("workers", "--json").json["workers"]
    assert (worker["pinned_as"], worker["pinned_model"]) == ("w@host", "m-aaaa")
    assert at_home("workers", "unpin", "w").out == "1 process told to take all work:\n  w@host\n"
    assert "PINNED TO" not in at_home("workers").out
    answer = at_home("workers", "pin", "w", "nothing")
    assert answer.code == 2
    assert "no job nothing, and no job asked for images of a model nothing" in answer.err
    assert at_home("workers", "unpin", "w").code == 2


def test_an_unknown_worker_is_one_line(at_home):
    answer = at_home("workers", "drain", "nobody")
    assert answer.code == 2
    assert "no live worker nobody; `imagemill workers` lists them" in answer.err


def test_no_worker_is_no_error(at_home, mill):
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    assert "no worker is alive" in at_home("workers").out
