"""Asking a store again while it is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from components.common.logs import say
from components.common.s3_errors import FAILURES, Fault

FIRST_SECONDS = 30.0  # how long a store is waited for that has not answered once: its address may be wrong
OUTAGE_SECONDS = 240.0  # how long one is waited for that was there before
QUIET_SECONDS = 3.0  # an outage that is shorter is not worth a line

T = TypeVar("T")

_jitter = random.Random()  # of its own: training draws from the global one


@dataclass
class Outages:
    """What all who use a store know together of its being away."""

    answered: bool = False
    told: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, fault: Fault, waited: float, left: float) -> None:
        """Says once that the store is away, if it has been for a while."""
        with self.lock:
            tell = not self.told and waited > QUIET_SECONDS
            self.told = self.told or tell
        if tell:
            say("store", f"{fault.error.what.removeprefix('the store at ')}; trying for {left:.0f} s more")

    def over(self) -> None:
        """Notes that the store has answered, and says so if it was said to be away."""
        self.answered = True
        if self.told:
            with self.lock:
                told, self.told = self.told, False
            if told:
                say("store", "answers again")


def until_answered(
    request: Callable[[], T],
    read: Callable[[BaseException], Fault],
    outages: Outages,
    patience: float,
    stop: threading.Event,
) -> T:
    """Makes a request until it succeeds, fails for good, or the store has been away for too long.

    Args:
        request: What to ask.
        read: Tells what a failure means.
        outages: Of the store.
        patience: Seconds to wait for a store that was there before.
        stop: Set, it ends the waiting.

    Raises:
        RlhfError: What `read` made of the failure.
    """
    began, attempt = 0.0, 0
    while True:
        try:
            answer = request()
        except FAILURES as error:
            fault = read(error)
            began = began or time.monotonic()
            budget = patience if outages.answered else min(FIRST_SECONDS, patience)
            left = began + budget - time.monotonic()
            if not fault.passing or left <= 0 or stop.is_set():
                raise fault.error from error
            outages.tell(fault, time.monotonic() - began, left)
            attempt += 1
            # Full jitter: those who failed together must not come back together.
            stop.wait(_jitter.uniform(0.05, min(10.0, 0.1 * 2 ** min(attempt, 10))))
        else:
            outages.over()
            return answer
