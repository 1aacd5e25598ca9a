"""Who is next: owners share the workers, then each owner's jobs do, by weights."""

import random
from collections import Counter

import pytest

from imagemill.db.queries.fleet import owners
from imagemill.db.queries.fleet.owners import OwnerReport
from imagemill.db.queries.jobs.job_edits import JobEdit, edit_job
from tests.helpers.mill import DIGEST, Mill, spec

OTHER = "b" * 64


@pytest.fixture(autouse=True)
def turns_without_lots() -> None:
    """Here lots are drawn as in production."""


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(7)


@pytest.fixture
def no_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the images in work decides."""
    monkeypatch.setattr(random, "expovariate", lambda _: 0.0)


def prompts(name: str, count: int) -> list[str]:
    return [f"{name} {n}" for n in range(count)]


def weigh(mill: Mill, name: str, weight: int) -> None:
    mill.database.run(lambda session: owners.weigh_owner(session, name, weight))


def listed(mill: Mill) -> list[OwnerReport]:
    with mill.database.reading() as session:
        return owners.list_owners(session)


def held(mill: Mill, claims: int, *, limit: int = 1) -> Counter[int]:
    """How many images of each job a worker got that gives none back."""
    shift = mill.shift()
    images = (mill.claim(shift, group_id=1, limit=limit) for _ in range(claims))
    return Counter(image.job_id for some in images for image in some)


def rendered(mill: Mill, images: int) -> Counter[int]:
    """The same for a worker with one slot, which finishes each image before the next."""
    shift, found = mill.shift(), Counter[int]()
    for _ in range(images):
        (image,) = mill.claim(shift, group_id=1, limit=1)
        mill.complete(shift, [image])
        found[image.job_id] += 1
    return found


@pytest.mark.usefixtures("no_lots")
def test_an_owner_with_many_jobs_gets_no_more_than_one_with_few(mill: Mill) -> None:
    many = [mill.load(f"m{n}", prompts(f"m{n}", 8), owner="many") for n in range(3)]
    few = mill.load("few", prompts("few", 20), owner="few")
    found = held(mill, 12)
    assert found == {many[0]: 2, many[1]: 2, many[2]: 2, few: 6}


@pytest.mark.usefixtures("no_lots")
def test_owners_and_jobs_share_by_weight(mill: Mill) -> None:
    heavy = mill.load("heavy", prompts("h", 20), owner="anna", weight=2)
    light = mill.load("light", prompts("l", 20), owner="anna")
    other = mill.load("other", prompts("o", 20), owner="bob")
    weigh(mill, "anna", 3)
    found = held(mill, 24)
    assert found == {heavy: 12, light: 6, other: 6}
    mill.database.run(lambda session: edit_job(session, "light", JobEdit(weight=1)))
    assert listed(mill) == [
        OwnerReport(name="anna", weight=3, open_jobs=2, ready=22, leased=18),
        OwnerReport(name="bob", weight=1, open_jobs=1, ready=14, leased=6),
    ]


@pytest.mark.usefixtures("no_lots")
def test_priority_goes_before_every_share(mill: Mill) -> None:
    weigh(mill, "anna", 1000)
    mill.load("low", prompts("l", 4), owner="anna", weight=1000)
    high = mill.load("high", prompts("h", 4), owner="bob", priority=1)
    assert held(mill, 2, limit=2) == {high: 4}


def test_one_worker_with_one_slot_shares_by_weight_too(sqlite_mill: Mill) -> None:
    """It never holds images of both, so only lots can share it."""
    heavy = sqlite_mill.load("heavy", prompts("h", 200), weight=3)
    light = sqlite_mill.load("light", prompts("l", 200))
    found = rendered(sqlite_mill, 160)
    assert 25 <= found[light] <= 55, found
    assert found[heavy] == 160 - found[light]


def test_a_large_job_does_not_keep_a_small_one_of_another_model_waiting(mill: Mill) -> None:
    """Both models are loaded and nothing is in work: the first job would always be first."""
    mill.load("large", prompts("l", 300))
    mill.load("small", [spec(f"s {n}", digest=OTHER) for n in range(10)])
    chosen = Counter(
        choice.id for _ in range(30) if (choice := mill.choose(loaded=[DIGEST, OTHER]))
    )
    assert set(chosen) == {mill.group_of(DIGEST), mill.group_of(OTHER)}
    assert min(chosen.values()) >= 7


def test_jobs_from_before_have_one_owner_without_a_name(mill: Mill) -> None:
    mill.load("old", ["a"])
    assert [each.name for each in listed(mill)] == [""]
