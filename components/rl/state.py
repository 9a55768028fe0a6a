"""What PPO has learnt so far, written into a checkpoint and read back.

Random numbers are no part of it: rollouts and minibatches draw theirs by the number of the step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.rl.config import RlConfig
from components.rl.ppo import KlController
from components.rl.roles import Roles
from components.rl.update import Optimizers

_FILE = "state.pt"


@dataclass(frozen=True)
class Learner:
    """All that changes in training: both trained roles, their optimizer and the weight of the KL penalty."""

    roles: Roles
    optimizers: Optimizers
    controller: KlController

    @staticmethod
    def build(roles: Roles, config: RlConfig) -> Learner:
        """A learner that has learnt nothing yet."""
        controller = KlController(config.beta, config.target_kl, config.kl_horizon)
        return Learner(roles, Optimizers.build(roles, config), controller)

    def save(self, folder: Path) -> None:
        """Writes everything into a folder."""
        write_state(self._state(), folder)

    def snapshot(self) -> dict[str, Any]:
        """Everything as it is now, in main memory: what `write_state` takes, however training goes on."""
        copied: dict[str, Any] = _copied(self._state())
        return copied

    def load(self, folder: Path) -> None:
        """Takes over what `save` wrote."""
        state = torch.load(folder / _FILE, map_location="cpu", weights_only=True)
        for role in self.roles.trained:
            for parameter, saved in zip(self.roles.parameters(role), state[role], strict=True):
                parameter.data.copy_(saved)
        self.controller.beta = state["beta"]
        for name, part in self._parts().items():
            # A scaler that was off, on a device that needs none, leaves an empty state, which one that is on refuses.
            if state[name]:
                part.load_state_dict(state[name])

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        for role in self.roles.trained:
            state[role] = [parameter.data for parameter in self.roles.parameters(role)]
        return {**state, "beta": self.controller.beta}

    def _parts(self) -> dict[str, Any]:
        optimizers = self.optimizers
        return {"optimizer": optimizers.optimizer, "scheduler": optimizers.scheduler, "scaler": optimizers.scaler}


def write_state(state: dict[str, Any], folder: Path) -> None:
    """Writes a learner's state into a folder, for `Learner.load`."""
    torch.save(state, folder / _FILE)


def _copied(value: Any) -> Any:
    """Nested values, copied; tensors to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_copied(part) for part in value]
    return copy.deepcopy(value)
