"""Groups of hashes: the same as comparing each with each finds."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from imagemill.scheduler_jobs.curation import hamming
from imagemill.scheduler_jobs.curation.hamming import MOST_DISTANCE, group_hashes


def hashes(seed: int) -> NDArray[np.uint64]:
    """Random ones, copies with up to a dozen bits flipped, and equal ones."""
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 2**64, 600, dtype=np.uint64)
    copies = originals[:300].copy()
    for n in range(len(copies)):
        for bit in rng.choice(64, rng.integers(0, 13), replace=False):
            copies[n] ^= np.uint64(1) << np.uint64(bit)
    return rng.permutation(np.concatenate([originals, copies, originals[:5], copies[:5]]))


@pytest.mark.parametrize("distance", range(MOST_DISTANCE + 1))
def test_groups_are_those_of_comparing_all_with_all(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hamming, "_PAIRS_AT_ONCE", 50)
    monkeypatch.setattr(hamming, "_EDGES_AT_ONCE", 20)
    some = hashes(distance)
    bits = np.bitwise_count(some[:, None] ^ some[None])
    count, wanted = connected_components(bits <= distance, directed=False)
    found = group_hashes(some, distance)
    assert sorted(set(found)) == list(range(count))
    assert len(set(zip(wanted.tolist(), found.tolist(), strict=True))) == count


def test_no_hash_and_one_hash() -> None:
    assert group_hashes(np.array([], np.uint64), 4).tolist() == []
    assert group_hashes(np.array([7], np.uint64), 4).tolist() == [0]


@pytest.mark.parametrize("distance", [-1, MOST_DISTANCE + 1])
def test_other_distances_are_refused(distance: int) -> None:
    with pytest.raises(ValueError, match="from 0 to"):
        group_hashes(np.array([1], np.uint64), distance)
