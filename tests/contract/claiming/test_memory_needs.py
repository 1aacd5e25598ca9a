"""What models need of a card's memory, and who therefore takes what, on both databases."""

from imagemill.db.queries.fleet.memory import TooLarge, list_waiting_for_memory
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.memory_needs import Card, Need, find_needs, record_need
from tests.helpers.mill import DIGEST, Mill, spec

TUNING = "t" * 64
OTHER = "b" * 64
GIB = 2**30


def need(mill: Mill, key: str, *, needed: float = 0, too_small: float = 0) -> None:
    mill.database.run(
        lambda session: record_need(
            session,
            key=key,
            tuning=TUNING,
            device="NVIDIA T4",
            needed=int(needed * GIB),
            too_small=int(too_small * GIB),
        )
    )


def worker(mill: Mill, name: str, gib: float, tuning: str = TUNING, **about: object) -> int:
    worker_id = mill.worker(name, **about)
    card = Card(memory_bytes=int(gib * GIB), tuning=tuning)
    mill.database.run(
        lambda session: shifts.see_worker(session, worker_id, device="cuda:0", card=card)
    )
    return worker_id


def chosen(mill: Mill, worker_id: int) -> str | None:
    choice = mill.choose(worker_id=worker_id)
    return None if choice is None else choice.key


def waiting(mill: Mill, job_id: int | None = None) -> list[TooLarge]:
    with mill.database.reading() as session:
        return list_waiting_for_memory(session, job_id=job_id)


def stop_default_worker(mill: Mill) -> None:
    """The mill's own worker is on a CPU, which may have the memory."""
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))


def test_a_worker_chooses_only_what_its_card_has_the_memory_for(mill: Mill) -> None:
    large, small = spec("a", width=1024), spec("b", digest=OTHER)
    mill.load("job", [large, small], priority=1)
    eight, sixteen = worker(mill, "eight@box:1", 8), worker(mill, "sixteen@box:2", 16)
    for each in (eight, sixteen, mill.worker_id):
        assert chosen(mill, each) is not None, "what nobody has measured is tried"
    need(mill, large.group_key(), needed=15.5)
    need(mill, OTHER, needed=3)
    assert chosen(mill, eight) == small.group_key()
    mill.claim(mill.shift(), group_id=mill.group_of(OTHER))
    assert chosen(mill, eight) is None
    assert chosen(mill, sixteen) == large.group_key()
    assert chosen(mill, mill.worker_id) == large.group_key(), "on a CPU"
    tuned = worker(mill, "tuned@box:3", 8, tuning="u" * 64)
    assert chosen(mill, tuned) == large.group_key(), "it runs models in another way"


def test_a_model_that_does_not_fit_takes_all_its_groups_along(mill: Mill) -> None:
    mill.load("job", [spec("a"), spec("b", width=128)])
    eight = worker(mill, "eight@box:1", 8)
    need(mill, DIGEST, too_small=8)
    assert chosen(mill, eight) is None, "a card of the same size was too small"
    assert chosen(mill, worker(mill, "nine@box:2", 9)) is not None


def test_what_is_known_stays_if_it_says_more(mill: Mill) -> None:
    need(mill, DIGEST, needed=4)
    need(mill, DIGEST, too_small=8)
    need(mill, DIGEST, needed=3, too_small=7)
    need(mill, DIGEST, needed=5)
    with mill.database.reading() as session:
        found = find_needs(session, tuning=TUNING, keys=[DIGEST, OTHER])
        assert find_needs(session, tuning="u" * 64, keys=[DIGEST]) == {}
    assert found == {DIGEST: Need(needed_bytes=5 * GIB, too_small_bytes=8 * GIB)}


def test_images_that_no_live_card_has_the_memory_for_are_told(mill: Mill) -> None:
    large = spec("a", width=1024)
    job = mill.load("job", [large, spec("b")], samples=2, needs={"gpu": ""})
    need(mill, large.group_key(), needed=20)
    worker(mill, "eight@box:1", 8, labels={"gpu": "t4"})
    worker(mill, "sixteen@box:2", 16, labels={"gpu": "a4000"})
    worker(mill, "eighty@box:3", 80)  # it has not the label
    told = TooLarge(
        job_id=job,
        job_name="job",
        model="m-aaaa",
        width=1024,
        height=64,
        images=2,
        needed_bytes=20 * GIB,
        largest_bytes=16 * GIB,
    )
    assert waiting(mill) == waiting(mill, job) == [told]
    assert waiting(mill, job + 1) == []
    fresh = mill.worker("fresh@box:4", labels={"gpu": "h100"})
    assert waiting(mill) == [], "one that has not loaded anything yet may have the memory"
    mill.database.run(lambda session: shifts.stop_worker(session, fresh))
    assert waiting(mill) == [told]
    worker(mill, "large@box:5", 24, labels={"gpu": "a5000"})
    assert waiting(mill) == []


def test_a_card_that_was_too_small_says_only_that(mill: Mill) -> None:
    mill.load("job", ["a"])
    stop_default_worker(mill)
    worker(mill, "eight@box:1", 8)
    need(mill, DIGEST, too_small=8)
    [told] = waiting(mill)
    assert (told.needed_bytes, told.largest_bytes) == (None, 8 * GIB)
