"""Groups of 64-bit hashes that differ in few bits, for a million of them.

Multi-index hashing (Norouzi, Punjani, Fleet, 2012): of hashes that differ in at most d bits, one of
four bands of 16 bits differs in at most d // 4. So each hash is compared only with those in the
same bucket of a band, and in buckets that few bits away, and not with all others.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MOST_DISTANCE = 11
"""Up to here a band differs in at most two bits: 137 buckets to look into, not thousands."""

_BANDS = 4
_BITS = 16
_PAIRS_AT_ONCE = 1 << 20
"""Pairs that are compared at once: some 40 MB, and small enough for the processor's caches."""

_EDGES_AT_ONCE = 1 << 20

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def group_hashes(hashes: Hashes, distance: int) -> Numbers:
    """A group's number for each hash, from 0.

    Two hashes that differ in at most `distance` bits (0 to `MOST_DISTANCE`) are in one group, and
    so are those that a chain of such pairs connects.
    """
    if not 0 <= distance <= MOST_DISTANCE:
        raise ValueError(f"distance {distance}: from 0 to {MOST_DISTANCE}")
    different, place = np.unique(hashes, return_inverse=True)
    groups = _Groups(len(different))
    for band in range(_BANDS if distance else 0):
        keys = ((different >> np.uint64(band * _BITS)) & np.uint64((1 << _BITS) - 1)).astype(
            np.int64
        )
        order = np.argsort(keys, kind="stable")
        for left, right in _near(different[order], keys[order], distance):
            groups.join(order[left], order[right])
    return groups.numbers()[place]


class _Groups:
    """Joins elements to groups; keeps few of the pairs that it was given."""

    def __init__(self, elements: int) -> None:
        self._numbers: Numbers = np.arange(elements)
        self._waiting: list[tuple[Numbers, Numbers]] = []
        self._pairs = 0

    def join(self, left: Numbers, right: Numbers) -> None:
        """Each element of `left` and its partner in `right` are of one group."""
        one, other = self._numbers[left], self._numbers[right]
        news = one != other
        self._waiting.append((one[news], other[news]))
        self._pairs += int(news.sum())
        if self._pairs >= _EDGES_AT_ONCE:
            self._merge()

    def numbers(self) -> Numbers:
        """The group of each element."""
        self._merge()
        return self._numbers

    def _merge(self) -> None:
        if self._pairs:
            one, other = (np.concatenate(side) for side in zip(*self._waiting, strict=True))
            size = int(self._numbers.max()) + 1
            graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
            _, found = connected_components(graph, directed=False)
            self._numbers = found.astype(np.int64)[self._numbers]
        self._waiting, self._pairs = [], 0


def _near(values: Hashes, keys: Numbers, distance: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of places whose values differ in few bits; `values` and `keys` are sorted by key."""
    starts = np.searchsorted(keys, np.arange((1 << _BITS) + 1))
    places = np.arange(len(values))
    for flipped in _masks(distance // _BANDS):
        if flipped == 0:
            first, last = places + 1, starts[keys + 1]
            chosen = places
        else:
            # Of two buckets, only the one without the highest flipped bit looks into the other.
            chosen = np.flatnonzero(keys & (1 << (flipped.bit_length() - 1)) == 0)
            other = keys[chosen] ^ flipped
            first, last = starts[other], starts[other + 1]
        for left, right in _pairs(chosen, first, last - first):
            bits = np.bitwise_count(values[left] ^ values[right])
            near = np.flatnonzero(bits <= distance)
            if len(near):
                yield left[near], right[near]


def _pairs(places: Numbers, first: Numbers, counts: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Each place with the `counts` places from `first` on, some at once."""
    ends = np.cumsum(counts)
    begin, before = 0, 0
    while begin < len(places):
        end = max(begin + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        some = counts[begin:end]
        total = int(ends[end - 1]) - before
        # Where its partners begin, less how many pairs come before: plus the pair's own number.
        shifts = first[begin:end] - (ends[begin:end] - some - before)
        yield (
            np.repeat(places[begin:end], some),
            np.repeat(shifts, some) + np.arange(total),
        )
        begin, before = end, int(ends[end - 1])


def _masks(radius: int) -> Iterator[int]:
    """Every number of 16 bits with at most `radius` of them set."""
    for bits in range(radius + 1):
        for chosen in combinations(range(_BITS), bits):
            yield sum(1 << bit for bit in chosen)
