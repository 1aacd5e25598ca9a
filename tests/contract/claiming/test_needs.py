"""Labels of workers and what jobs need of them, on both databases."""

from sqlalchemy import update

from imagemill.db.labels import has_all
from imagemill.db.queries.fleet.reports import is_served
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.due_images import idle_of_mixed_routes
from imagemill.db.queries.work.memory_needs import Card, record_need
from imagemill.db.tables import Worker
from tests.helpers.mill import DIGEST, Mill, spec

OTHER = "b" * 64


def test_only_a_worker_with_the_labels_takes_a_job(mill: Mill) -> None:
    large = mill.load("large", ["a", "b"], needs={"gpu": "h100", "nvlink": ""}, priority=9)
    plain = mill.load("plain", ["c", spec("d", digest=OTHER)])
    fit = mill.worker("fit@host:1", labels={"gpu": "h100", "nvlink": "yes", "zone": "a"})
    unfit = mill.worker("unfit@host:2", labels={"gpu": "a100", "nvlink": ""})
    group = mill.group_of(DIGEST)
    without = mill.claim(mill.shift(worker_id=unfit), group_id=group)
    assert {image.job_id for image in without} == {plain}
    assert mill.claim(mill.shift(), group_id=group) == [], "a worker without labels"
    choice = mill.choose(worker_id=unfit)
    assert choice is not None
    assert choice.id == mill.group_of(OTHER)
    choice = mill.choose(worker_id=fit)
    assert choice is not None
    assert choice.id == group
    found = mill.claim(mill.shift(worker_id=fit), group_id=group)
    assert {image.job_id for image in found} == {large}


def test_whether_somebody_has_the_labels_is_known(mill: Mill) -> None:
    mill.worker("w@host:1", labels={"gpu": "h100"})
    with mill.database.reading() as session:
        assert is_served(session, "default", {"gpu": "h100"})
        assert is_served(session, "default", {"gpu": ""})
        assert not is_served(session, "default", {"gpu": "a100"})
        assert not is_served(session, "default", {"zone": ""})
        assert not is_served(session, "other", {})


def test_an_empty_value_is_any() -> None:
    assert has_all({}, {})
    assert has_all({"a": "1", "b": "2"}, {"a": "1"})
    assert has_all({"a": "1"}, {"a": ""})
    assert not has_all({"a": "1"}, {"a": "2"})
    assert not has_all({"a": ""}, {"a": "1"})
    assert not has_all({}, {"a": ""})


def woken(mill: Mill) -> dict[str, int]:
    return mill.database.run(idle_of_mixed_routes)


def test_all_idle_workers_are_woken_where_few_of_them_have_the_labels(mill: Mill) -> None:
    for number in range(5):
        mill.worker(f"plain@host:{number}")
    plain = mill.load("plain", ["a"])
    assert woken(mill) == {}, "any of them may take it"
    needy = mill.load("needy", [spec(f"b{n}", digest=OTHER) for n in range(9)], needs={"gpu": ""})
    assert woken(mill) == {}, "nobody has the labels"
    fit = mill.worker("fit@host:9", labels={"gpu": "h100"})
    assert woken(mill) == {"default": 7}, "the mill's own worker is idle too"
    mill.shift(worker_id=fit)
    assert woken(mill) == {}, "who has them is at work"
    second = mill.worker("second@host:9", labels={"gpu": "h100"})
    assert woken(mill) == {"default": 7}
    with mill.database.writing() as session:
        session.execute(update(Worker).where(Worker.id == second).values(pinned_job_id=plain))
    assert woken(mill) == {}, "it is pinned to another job"
    with mill.database.writing() as session:
        session.execute(update(Worker).where(Worker.id == second).values(pinned_job_id=needy))
    assert woken(mill) == {"default": 7}
    mill.pause(needy)
    assert woken(mill) == {}


def test_nobody_is_woken_for_what_waits_or_does_not_fit(mill: Mill) -> None:
    mill.load("needy", ["a"], needs={"gpu": ""})
    fit = mill.worker("fit@host:9", labels={"gpu": "t4"})
    card = Card(memory_bytes=8, tuning="t" * 64)
    mill.database.run(lambda s: shifts.see_worker(s, fit, device="cuda:0", card=card))
    assert woken(mill) == {"default": 2}
    shift = mill.shift(worker_id=fit)
    mill.fail(shift, mill.claim(shift)[0].id)
    mill.end(shift)
    assert woken(mill) == {}, "it waits for its next try"
    mill.wait_out()
    assert woken(mill) == {"default": 2}
    need = {"key": DIGEST, "tuning": "t" * 64, "device": "NVIDIA T4", "needed": 9}
    mill.database.run(lambda session: record_need(session, **need))
    assert woken(mill) == {}, "its card is too small"
