"""Compositions: recorded once, kept by a request's first object, found with what was asked for."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text, update

from imagemill.db.compositions import Composition
from imagemill.db.errors import UnknownImage
from imagemill.db.queries.pictures.originals import (
    Member,
    Original,
    find_originals,
    sample_originals,
)
from imagemill.db.queries.work.claims import Claimed
from imagemill.db.tables import CompositionRow, Image
from tests.helpers.mill import Mill, spec

SLOTS = 4


def batch(images: list[Claimed]) -> Composition:
    return Composition.of([(image.id, image.spec) for image in images], slots=SLOTS)


def originals(mill: Mill, *image_ids: int) -> list[Original]:
    with mill.database.reading() as session:
        return find_originals(session, image_ids)


def recorded(mill: Mill) -> int:
    with mill.database.reading() as session:
        return session.scalar(select(func.count()).select_from(CompositionRow)) or 0


@pytest.fixture
def three(mill: Mill) -> tuple[int, list[Claimed]]:
    """A shift that holds three images of one job."""
    mill.load("job", ["a", "b", "c"])
    shift = mill.shift()
    return shift, mill.claim(shift)


def test_the_digest_is_of_the_requests_in_their_order_and_of_b() -> None:
    one, other = (1, spec("a")), (2, spec("b"))
    first = Composition.of([one, other], slots=4)
    assert first.digest() == Composition.of([(7, spec("a")), other], slots=4).digest()
    different = [
        Composition.of([other, one], slots=4),
        Composition.of([one], slots=4),
        Composition.of([one, other], slots=2),
    ]
    assert len({first.digest(), *(each.digest() for each in different)}) == 4


def test_an_object_is_found_with_everybody_who_was_beside_it(mill: Mill, three) -> None:
    shift, held = three
    together = batch(held[::-1])
    assert mill.complete(shift, held[:2], composition=together) == 2
    assert mill.complete(shift, held[2:], composition=together) == 1
    assert recorded(mill) == 1
    for original in originals(mill, *(image.id for image in held)):
        assert original.together == tuple(
            Member(image_id=image.id, spec=image.spec) for image in held[::-1]
        )
    with mill.database.reading() as session:
        query = text("SELECT DISTINCT composition FROM dataset_images")
        assert session.scalars(query).all() == [together.digest()]
        [sampled] = sample_originals(session, held[0].job_id, 1)
        assert len(sampled.together) == 3


def test_without_a_composition_nobody_was_beside_it(mill: Mill, three) -> None:
    shift, held = three
    mill.complete(shift, held)
    assert recorded(mill) == 0
    assert [original.together for original in originals(mill, held[0].id)] == [()]


def test_an_object_that_exists_keeps_its_own_composition(mill: Mill, three) -> None:
    shift, held = three
    again = mill.load("again", ["a"])
    other = mill.shift()
    theirs = mill.claim(other)
    assert theirs[0].request_key == held[0].request_key
    mill.complete(shift, held[:1], composition=batch(held))
    assert mill.complete(other, theirs, content="late", composition=batch(theirs)) == 1
    assert mill.counts(again).done == 1
    for original in originals(mill, held[0].id, theirs[0].id):
        assert [member.image_id for member in original.together] == [each.id for each in held]


def test_who_was_beside_it_is_found_in_whatever_state(mill: Mill, three) -> None:
    shift, held = three
    mill.complete(shift, held[:1], composition=batch(held))
    mill.give_back(shift, [held[1].id])
    mill.cancel(held[0].job_id)
    [original] = originals(mill, held[0].id)
    assert [member.spec for member in original.together] == [image.spec for image in held]


def test_a_row_that_asks_for_something_else_by_now_is_nobody(mill: Mill, three) -> None:
    shift, held = three
    mill.complete(shift, held[:1], composition=batch(held))
    edited = update(Image).where(Image.id == held[1].id).values(prompt="something else")
    mill.database.run(lambda session: session.execute(edited))
    [original] = originals(mill, held[0].id)
    assert [member.spec is None for member in original.together] == [False, True, False]


def test_a_shift_whose_lease_is_over_records_no_composition(mill: Mill, three) -> None:
    shift, held = three
    mill.expire(shift)
    assert mill.complete(shift, held, composition=batch(held)) == 0
    assert recorded(mill) == 0


def test_many_shifts_may_record_the_same_compositions_at_once(mill: Mill) -> None:
    """As after a lease that ended in the middle of a batch, and the batch was drawn again."""
    mill.load("job", [f"p{n}" for n in range(32)])
    shifts = [mill.shift() for _ in range(4)]
    held = {shift: mill.claim(shift) for shift in shifts}
    everybody = [image for images in held.values() for image in images]
    compositions = [batch(everybody[n : n + SLOTS]) for n in range(0, 32, SLOTS)]

    def work(shift: int) -> int:
        order = compositions if shift % 2 else compositions[::-1]
        return sum(
            mill.complete(shift, [image], composition=each)
            for image, each in zip(held[shift], order, strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, shifts)) == 32
    assert recorded(mill) == len(compositions)


def test_no_image_has_a_number_that_no_column_holds(mill: Mill) -> None:
    with mill.database.reading() as session, pytest.raises(UnknownImage, match=f"image {10**30} "):
        find_originals(session, [10**30])
