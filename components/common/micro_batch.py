"""How many rows fit a GPU at once: tried before training, so that a job does not die of it hours later."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from components.common import distributed
from components.common.errors import UserError
from components.common.logs import say

# What comes on top of gradients in training: Adam's two moments and the copy that a step works on.
_FLOATS_FOR_EACH_PARAMETER = 3


def fitting(stage: str, rows: int, attempt: Callable[[int], None], device: torch.device) -> int:
    """The largest micro-batch that fits every process: `rows`, or a half, a quarter … of it.

    The global batch stays: more micro-batches are then accumulated for a step.

    Args:
        stage: Name of the stage, for messages.
        rows: Rows wished for.
        attempt: Computes gradients for so many of the longest rows.
        device: Where.

    Raises:
        UserError: Not even one row fits.
    """
    while not _fits(rows, attempt, device):
        if rows == 1:
            raise UserError(
                "one row does not fit the GPU's memory",
                where=f"{stage}.per_device_train_batch_size=1",
                hint=f"set {stage}.activation_checkpointing=true, shorter rows in data.{stage}, or a smaller lora.r",
            )
        rows //= 2
        say(stage, f"out of memory: trying per_device_train_batch_size={rows}; the global batch stays")
    return rows


def _fits(rows: int, attempt: Callable[[int], None], device: torch.device) -> bool:
    try:
        attempt(rows)
        failed = 0.0
    except torch.OutOfMemoryError:
        failed = 1.0
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return distributed.sum_over_ranks(torch.tensor([failed], device=device)).item() == 0


def try_gradients(model: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    """Computes gradients beside as much memory as the optimizer will take, and lets go of all of it.

    Args:
        model: What is trained.
        loss: Computes a loss on the longest rows.

    Raises:
        torch.OutOfMemoryError: It does not fit.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = _FLOATS_FOR_EACH_PARAMETER * sum(parameter.numel() for parameter in trainable)
    reserved = torch.empty(size, dtype=torch.float32, device=trainable[0].device)
    try:
        loss().backward()
    finally:
        del reserved
        model.zero_grad(set_to_none=True)
