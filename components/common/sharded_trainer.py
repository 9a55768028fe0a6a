"""Checkpoints of a model that is split among processes: written whole by the main one, as those of any other model.

So a checkpoint can be gone on from with or without sharding, and with any number of processes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import Trainer

from components.common.adapters import load_adapter_weights
from components.common.errors import InputError
from components.common.sharding import fill, is_sharded, main_copy, part_like, whole, whole_trainables
from components.common.trainables import score_head

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"


class ShardedCheckpoints(Trainer):  # type: ignore[misc]
    """A Trainer, or a base class before one of TRL's, that can save and load a split model."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not is_sharded(self.model):
            super()._save(output_dir, state_dict)
            return
        weights = whole_trainables(self.model)
        if self.args.should_save:
            super()._save(output_dir, weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if is_sharded(self.model):
            load_trained(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_optimizer_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir, _OPTIMIZER))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, _SCHEDULER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint, _OPTIMIZER), map_location="cpu", weights_only=True, mmap=True)
        self.optimizer.load_state_dict(split_optimizer_state(self.optimizer, state))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, _SCHEDULER), weights_only=True))

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Sums gradients after each micro-batch: until they are summed, each process holds all of them whole."""
        return nullcontext()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        return whole(norm) if isinstance(norm, Tensor) else norm


def load_trained(model: Any, folder: Path) -> None:
    """Gives a split model the trained parameters of a checkpoint.

    Args:
        model: With or without an adapter.
        folder: Of the checkpoint.

    Raises:
        InputError: Something has no place in the model, or a parameter is not there.
    """
    model.reshard()
    if hasattr(model, "peft_config"):
        head = load_adapter_weights(model, folder, "default")
        if head is not None:
            fill(score_head(model), head)
        return
    places = dict(model.named_parameters(remove_duplicate=False))
    unfilled = {id(parameter) for parameter in places.values()}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                if name not in places:
                    raise InputError(f"tensor {name} has no place in this model", where=str(path))
                fill(places[name], file.get_tensor(name))
                unfilled.discard(id(places[name]))
    if unfilled:
        name = next(name for name, parameter in places.items() if id(parameter) in unfilled)
        raise InputError(f"there are no weights for {name}", where=str(folder))


def whole_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """An optimizer's state as one process alone would have it, on the main process; all processes must ask for it."""
    state: dict[str, Any] = optimizer.state_dict()
    return {**state, "state": {number: _whole_values(values) for number, values in state["state"].items()}}


def _whole_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: main_copy(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def split_optimizer_state(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """This process's part of what `whole_optimizer_state` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {number: _split_values(values, parameters[number]) for number, values in state["state"].items()}
    return {**state, "state": parts}


def _split_values(values: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    return {name: part_like(value, parameter) if _is_of(value, parameter) else value for name, value in values.items()}


def _is_of(value: Any, parameter: Tensor) -> bool:
    """Whether a value has a number for each of a parameter's; the step's number has not."""
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == parameter.shape
