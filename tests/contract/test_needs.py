"""Labels of workers and what jobs need of them, on both databases."""

from imagemill.db.labels import has_all
from imagemill.db.queries.fleet.reports import is_served
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
