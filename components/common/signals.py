"""SIGTERM: who hears of it, and the stacks that pods print when it comes."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from typing import Any

Handler = Callable[[int, Any], Any] | int | None


def on_sigterm(handler: Handler) -> Handler:
    """Sets what SIGTERM does, and keeps the stacks, which `signal.signal` alone would silently switch off.

    With RLHF_STACKS_ON_SIGTERM, in pods, every thread's stack is printed first: the only way to learn what a process
    that hangs was doing.

    Returns:
        What it did before.
    """
    faulthandler.unregister(signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, handler)
    if os.environ.get("RLHF_STACKS_ON_SIGTERM"):
        faulthandler.register(signal.SIGTERM, all_threads=True, chain=True)
    return before
