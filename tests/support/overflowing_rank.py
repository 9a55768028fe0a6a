"""Run by torchrun: PPO's optimizer step under a gradient scaler, where one process overflows once."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from components.common import distributed
from components.common.guard import end_rank
from components.rl.update import Optimizers, apply_gradients


class TwoRoles:
    """Two parameters in place of two adapters."""

    trained = ("policy", "critic")

    def __init__(self) -> None:
        self._parameters = {"policy": [nn.Parameter(torch.ones(3))], "critic": [nn.Parameter(torch.ones(2))]}

    def parameters(self, role: str) -> list[nn.Parameter]:
        return self._parameters[role]


def main(folder: Path) -> None:
    distributed.start(torch.device("cpu"))
    roles = TwoRoles()
    groups = [{"params": roles.parameters(role), "lr": 0.1} for role in ("policy", "critic")]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    optimizers = Optimizers(optimizer, scheduler, torch.amp.GradScaler("cpu", init_scale=4.0))
    seen = []
    for overflows in (False, True, False):
        for role in ("policy", "critic"):
            for parameter in roles.parameters(role):
                optimizers.scaler.scale((distributed.rank() + 1) * parameter.sum()).backward()
        if overflows and distributed.rank() == 1:
            roles.parameters("critic")[0].grad[0] = float("inf")
        rate = scheduler.get_last_lr()[0]
        values = apply_gradients(roles, optimizers, max_grad_norm=1e9)
        weights = torch.cat([p.detach() for role in ("policy", "critic") for p in roles.parameters(role)])
        seen.append(
            {"weights": weights.tolist(), "scale": values["loss_scale"], "skipped": values["skipped"], "lr": rate}
        )
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_rank(0)
