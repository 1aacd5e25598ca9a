"""Who is in the next forward pass, and how many images are missing until one is full."""

from dataclasses import dataclass

from imagemill.worker.engine.passes import missing, next_pass, packed

PLACES = 2


@dataclass(eq=False)
class Image:
    waiting_since: int = 0


def test_the_largest_group_comes_first_and_of_several_the_one_that_waited_longest() -> None:
    late, early, lone = [Image(3), Image(3)], [Image(4), Image(2), Image(2)], [Image(1)]
    assert next_pass([lone, late], places=PLACES, passes=5) == late
    # A group that is more than full is not larger than a full one.
    assert next_pass([lone, late, early], places=PLACES, passes=5) == early[1:]


def test_an_image_without_company_waits_for_a_bounded_number_of_passes() -> None:
    rare, usual = [Image()], [Image() for _ in range(2 * PLACES)]
    passes, chosen = 0, []
    while chosen != rare:
        chosen = next_pass([rare, usual], places=PLACES, passes=passes)
        passes += 1
        for image in chosen:
            image.waiting_since = passes
    # Two kinds of passes are waited for.
    assert passes == 2 * 16 + 2
    # Of the others, too, those that had waited longest were chosen.
    assert {image.waiting_since for image in usual} == {passes - 1, passes - 2}


def test_what_is_missing_until_a_pass_is_full() -> None:
    assert missing([], places=4, most=8) == 4
    assert missing([[Image()] * 3, [Image()]], places=4, most=8) == 1
    assert missing([[Image()] * 5], places=4, most=8) == 0
    assert missing([[Image()]] * 7, places=4, most=8) == 1


def test_a_pass_is_packed_as_full_as_it_can_be() -> None:
    old, new, small = Image(1), Image(4), Image(5)
    assert packed([(new, 2), (old, 1)], rows=4, passes=5) == [new, old]
    # The one that waited longest goes first, and the next that fits.
    assert packed([(new, 3), (small, 1), (old, 3)], rows=4, passes=5) == [small, old]
    # It would leave half of the rows empty, so the largest goes first.
    assert packed([(old, 2), (new, 4)], rows=4, passes=5) == [new]
    # But nobody waits for ever.
    assert packed([(old, 2), (new, 4)], rows=4, passes=18) == [old]
