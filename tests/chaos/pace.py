"""Keeping all kinds of faults in step with each other, until each happened as often as wanted."""

import random
import threading
from collections import Counter
from collections.abc import Mapping

_AHEAD = 0.02
"""The part of its plan that a kind of fault may be ahead of the slowest."""


class Pace:
    """How often each kind of fault has happened (`counts`) and is wanted, by name.

    A thousand kills in the first minutes would leave no worker alive for long enough to meet the
    other faults, so all kinds keep step with the slowest.
    """

    def __init__(self, wanted: Mapping[str, int], dice: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.stopped = threading.Event()
        self._wanted = wanted
        self._dice = dice

    def shares(self) -> dict[str, float]:
        """How much of the plan is fulfilled, by kind."""
        counts = self.counts | {"kills": self.kills}
        return {name: counts.get(name, 0) / count for name, count in self._wanted.items()}

    @property
    def kills(self) -> int:
        """Kills of every role."""
        return sum(count for name, count in self.counts.items() if name.startswith("kill "))

    @property
    def fulfilled(self) -> bool:
        """Whether everything was broken as often as planned."""
        return min(self.shares().values(), default=1) >= 1

    def is_ahead(self, name: str) -> bool:
        """Whether enough of this was broken, for good or for the moment."""
        shares = self.shares()
        share = shares.get(name, 1)
        return share >= 1 or share > min(shares.values()) + _AHEAD

    def over(self, name: str, least: float, most: float) -> bool:
        """Pause for some seconds; whether nothing more of this is wanted now."""
        return self.stopped.wait(self._dice.uniform(least, most)) or self.is_ahead(name)
