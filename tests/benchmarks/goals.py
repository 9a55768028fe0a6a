"""What a comparison has to show, told beside its figures; a benchmark that misses one ends with exit code 1."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A bound on a figure.

    Attributes:
        what: What is bounded.
        value: What was measured.
        at_least: It must not be less.
        at_most: It must not be more.
    """

    what: str
    value: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def met(self) -> bool:
        return self.at_least <= self.value <= self.at_most

    def __str__(self) -> str:
        limits = [("at least", self.at_least), ("at most", self.at_most)]
        wanted = ", ".join(f"{words} {limit:.4g}" for words, limit in limits if math.isfinite(limit))
        return f"{self.what}: {self.value:.4g} ({wanted}): {'met' if self.met else 'MISSED'}"


def require(goals: Iterable[Goal]) -> None:
    """Ends the process if a goal is missed.

    Raises:
        SystemExit: Naming those that are.
    """
    missed = [str(goal) for goal in goals if not goal.met]
    if missed:
        raise SystemExit("\n".join(missed))
