"""How many rows fit a GPU at once: tried before training, so that a job does not die of it hours later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from components.common import distributed
from components.common.errors import UserError
from components.common.logs import say
from components.common.sharding import local

# What comes on top of gradients in training: Adam's two moments and the copy that a step works on.
_FLOATS_FOR_EACH_PARAMETER = 3


def fitting(
    stage: str,
    rows: int,
    attempt: Callable[[int], None],
    device: torch.device,
    setting: str = "per_device_train_batch_size",
    each: int = 1,
) -> int:
    """The largest micro-batch that fits every process: `rows`, or a half, a quarter … of it.

    The global batch stays: more micro-batches are then accumulated for a step.

    Args:
        stage: Name of the stage, for messages.
        rows: Rows wished for.
        attempt: Computes with so many of the longest rows, in most stages their gradients.
        device: Where.
        setting: What the user can lower by hand, for messages.
        each: What a row counts in that setting.

    Raises:
        UserError: Not even one row fits.
    """
    while not _all_agree(_fits(rows, attempt, device), device):
        if rows == 1:
            raise _too_large(stage, f"{setting}={each}")
        rows //= 2
        say(stage, f"out of memory: trying {setting}={rows * each}; the global batch stays")
    return rows


def reckoned(stage: str, rows: int, attempt: Callable[[int], int], device: torch.device, free: int) -> int:
    """Like `fitting`, for a model that is split among processes: only one row is tried, more are reckoned from it.

    A process that ran out of memory in the middle of a pass would leave the others waiting for its part of the model.

    Args:
        stage: Name of the stage, for messages.
        rows: Rows wished for.
        attempt: Computes gradients for so many of the longest rows, and says how many bytes that took at most. What
            gathered parameters take counts as if each row took it: the answer is on the safe side.
        device: Where.
        free: Bytes that there are.

    Raises:
        UserError: Not even one row fits this process.
    """
    try:
        each = attempt(1)
    except torch.OutOfMemoryError as error:
        raise _too_large(stage) from error
    wished = rows
    while not _all_agree(rows == 1 or rows * each <= free, device):
        rows //= 2
    if rows < wished:
        say(stage, f"short of memory: per_device_train_batch_size={rows}; the global batch stays")
    return rows


def peak_of(attempt: Callable[[], None], device: torch.device) -> int:
    """Bytes that something takes of a GPU at most, beside what is there already."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    attempt()
    return torch.cuda.max_memory_allocated(device) - before


def _too_large(stage: str, setting: str = "per_device_train_batch_size=1") -> UserError:
    return UserError(
        "one row does not fit the GPU's memory",
        where=f"{stage}.{setting}",
        hint=f"set {stage}.activation_checkpointing=true, shorter rows in data.{stage}, or a smaller lora.r",
    )


def _fits(rows: int, attempt: Callable[[int], None], device: torch.device) -> bool:
    try:
        attempt(rows)
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _all_agree(yes: bool, device: torch.device) -> bool:
    return distributed.sum_over_ranks(torch.tensor([0.0 if yes else 1.0], device=device)).item() == 0


def try_gradients(model: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    """Computes gradients beside as much memory as the optimizer will take, and lets go of all of it.

    Args:
        model: What is trained.
        loss: Computes a loss on the longest rows.

    Raises:
        torch.OutOfMemoryError: It does not fit.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with room_for_optimizer(trainable):
        loss().backward()


@contextmanager
def room_for_optimizer(trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Takes as much memory as the optimizer will, for a while; afterwards there are no gradients."""
    parts = [local(parameter) for parameter in trained]
    size = _FLOATS_FOR_EACH_PARAMETER * sum(part.numel() for part in parts)
    reserved = torch.empty(size, dtype=torch.float32, device=parts[0].device)
    try:
        yield
    finally:
        del reserved
        for parameter in trained:
            parameter.grad = None
