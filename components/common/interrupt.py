"""Being told to stop, politely: SIGTERM becomes a flag that training looks at between steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from components.common import distributed
from components.common.errors import RetryableError
from components.common.signals import on_sigterm


class StopRequest:
    """Whether this process, or a peer, was told to stop."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._asked = device, False

    @property
    def asked(self) -> bool:
        """Whether this process was told to stop; its peers may know nothing of it yet."""
        return self._asked

    def ask(self) -> None:
        """Notes that this process was told to stop."""
        self._asked = True

    def agreed(self) -> bool:
        """Whether any process was told to stop; all processes must ask at the same step, and get the same answer."""
        if distributed.world_size() == 1:
            return self._asked
        flag = torch.tensor([float(self._asked)], device=self._device)
        return bool(distributed.sum_over_ranks(flag).item())


@contextmanager
def stop_requests(device: torch.device) -> Iterator[StopRequest]:
    """Turns SIGTERM into a request for the time of a training loop."""
    request = StopRequest(device)

    def note(_number: int, _frame: FrameType | None) -> None:
        request.ask()

    before = on_sigterm(note)
    try:
        yield request
    finally:
        on_sigterm(before)


def stopped(stage: str, step: int) -> RetryableError:
    """The error that ends a stage which was told to stop."""
    return RetryableError(
        f"was told to stop after step {step}", where=stage, hint="run the same command again: it goes on from there"
    )
