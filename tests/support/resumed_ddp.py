"""Run by torchrun: a little model trained in one go, and with a new wrapper halfway, as after a restart."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from components.common.distributed import lay_out_gradients
from components.common.guard import end_rank


def train(new_at: int) -> torch.Tensor:
    """All weights after eight steps; before one of them everything but the model and the optimizer is made anew."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(33, 33) for _ in range(6)))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(8):
        if step in (0, new_at):
            wrapped = DistributedDataParallel(model)
            lay_out_gradients(wrapped)
        batch = torch.randn(16, 33, generator=torch.Generator().manual_seed(100 * step + dist.get_rank()))
        optimizer.zero_grad()
        (wrapped(batch) - batch.flip(1)).pow(2).mean().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


if __name__ == "__main__":
    dist.init_process_group("gloo")
    equal = torch.equal(train(0), train(4))
    end_rank(0 if equal else 1)
