"""The processes of one training job: who am I, sums and agreements. All of it is a no-op with one process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


def rank() -> int:
    """This process's number."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def start(device: torch.device) -> None:
    """Joins the process group: NCCL on GPUs, gloo on CPUs. A peer that hangs is given up after ten minutes."""
    if world_size() > 1 and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(backend, timeout=timedelta(minutes=10))


def leave() -> None:
    """Ends the exchange once all is said; all processes must come here.

    What one of NCCL's processes has sent may still be queued when the call returns, and would be lost if it ended: it
    waits for the others here. Gloo's calls return when all is sent. Its group is kept: were it freed while one of its
    threads waits for Python's lock, both would wait for ever.
    """
    if dist.is_initialized() and dist.get_backend() == "nccl":
        dist.destroy_process_group()


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def in_turn() -> Iterator[None]:
    """Lets the processes of a machine go through a block one after another; all processes must come here."""
    before = int(os.environ.get("LOCAL_RANK", "0"))
    after = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - before
    for _ in range(before):
        barrier()
    yield
    for _ in range(after):
        barrier()


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share of a list, taken in turns."""
    return items[rank() :: world_size()]


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, on each of them; changes it in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(items: Sequence[Item]) -> list[Item]:
    """All processes' items in the order that `shard` took them from."""
    if world_size() == 1:
        return list(items)
    parts: list[Sequence[Item]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, list(items))
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def from_main(item: Item) -> Item:
    """The main process's item, on all processes."""
    if world_size() == 1:
        return item
    items = [item]
    dist.broadcast_object_list(items, src=0)
    return items[0]


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Gives tensors the main process's values, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def lay_out_gradients(model: object) -> None:
    """Gives a wrapped model's gradients the layout that they keep, before its first step; all processes call it.

    DistributedDataParallel sends the first gradients of a process in one layout and all later ones in another, and
    where a number lies decides in which order the processes' shares of it are added. So with more than two of them a
    stage that goes on from a checkpoint would differ in the last bits from one that was never stopped.
    """
    if isinstance(model, DistributedDataParallel):
        model.reducer._push_all_rebuilt_params()
        model.reducer._rebuild_buckets()
