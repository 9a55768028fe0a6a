"""Giving a rollout batch up in the middle, because the process was told to stop: a batch may take many minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Halt:
    """Whether to stop, asked in two ways. By default, never.

    Attributes:
        asked: Whether this process was told to stop. Asks no other process, so it may be looked at between any two
            passes; whatever is then skipped must not be used before `settle`.
        settle: Ends the batch, on all processes, if any of them was told to stop; all must come here.
    """

    asked: Callable[[], bool] = lambda: False
    settle: Callable[[], None] = lambda: None

    def until_asked(self, pieces: Iterable[list[int]]) -> Iterator[list[int]]:
        """The pieces of this process, to be computed one after the other; the rest is skipped once it is to stop."""
        for piece in pieces:
            if self.asked():
                return
            yield piece


NEVER = Halt()
