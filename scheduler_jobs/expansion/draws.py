"""Random draws by a key. The same key draws the same in every process, version and machine."""

import hashlib
from collections.abc import Sequence
from itertools import accumulate


def share(key: str) -> float:
    """A number in [0, 1), evenly spread over keys."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    # A float holds 53 bits exactly.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def draw_index(weights: Sequence[float], key: str) -> int:
    """An index into `weights`, drawn by its share of their sum, which is above 0."""
    reached = list(accumulate(weights))
    drawn = share(key) * reached[-1]
    # Rounding may reach the sum itself. Then the last option counts whose weight is not 0.
    last = max(n for n, weight in enumerate(weights) if weight)
    return next((n for n, end in enumerate(reached) if drawn < end), last)
