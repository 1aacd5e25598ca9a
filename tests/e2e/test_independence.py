"""Pixels depend on the row alone: a short run of `benchmarks/independence.py`."""

import pytest

from benchmarks.independence import Way, compare
from benchmarks.mixed_manifests import SAMPLERS, family_rows, mixed_rows

WAYS = (
    Way(name="file order"),
    Way(name="shuffled and killed", shuffled=True, child_kills=1),
)


@pytest.mark.parametrize("slots", [2, 4])
def test_no_pixel_depends_on_neighbours_order_or_a_kill(slots):
    # Without unguided rows there are half as many groups, each of which has to be certified.
    rows = mixed_rows(24, seed=slots, steps=(4, 10), guidance=(2.0, 5.0, 9.0))
    first, second = compare(rows, slots=slots, ways=WAYS, seed=1)
    assert first.images == second.images == 24
    # One for each size.
    assert first.environments == second.environments == 2
    assert second.kills == 1
    assert second.foreign == 0
    assert second.different == ()


def test_the_manifest_is_mixed():
    rows = mixed_rows(200, seed=1)
    assert {row["sampler"] for row in rows} == set(SAMPLERS)
    assert len({row["id"] for row in rows}) == 200
    assert min(row["steps"] for row in rows) == 8
    assert max(row["steps"] for row in rows) > 30
    assert {row["size"] for row in rows} == {"64x64", "96x64"}
    assert {1.0, 9.0} <= {row["guidance_scale"] for row in rows}


def test_no_pixel_of_other_families_does_either():
    rows = family_rows(12, seed=1)
    first, second = compare(rows, slots=2, ways=WAYS, seed=1)
    assert first.images == second.images == 12
    assert second.kills == 1
    assert second.foreign == 0
    assert second.different == ()
