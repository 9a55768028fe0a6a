"""Saved adapters: put on a base to be used, or to be trained further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from components.common.artifacts import check_stands_on
from components.common.errors import InputError, UserError
from components.common.logs import say
from components.common.sharding import fill
from components.common.stage import Job
from components.common.trainables import score_head

ADAPTER = "adapter"  # name of the input
_HEAD = "base_model.model.score.weight"


def add_adapter(job: Job[Any], model: Any, fresh: Any) -> Any:
    """Puts the stage's adapter on its base: a new one, or the one that the stage was given to go on from.

    Args:
        job: The stage; its optional input `adapter` is a saved one.
        model: The base.
        fresh: PEFT's configuration of a new adapter. A given one keeps its own rank, scale and targets, and has this
            one's task and dropout.

    Returns:
        The PEFT model. A given adapter's score head, too, is where it was left.

    Raises:
        InputError: The given adapter was trained on another base, or its tensors do not fit.
    """
    from peft import get_peft_model

    if not job.has(ADAPTER):
        return get_peft_model(model, fresh)
    given = job.plan.inputs[ADAPTER]
    check_stands_on(given, job.plan.inputs["model"])
    folder = job.folder(ADAPTER)
    config = read_adapter_config(folder)
    config.task_type, config.modules_to_save = fresh.task_type, fresh.modules_to_save
    config.lora_dropout = fresh.lora_dropout
    adapted = get_peft_model(model, config)
    head = load_adapter_weights(adapted, folder, "default")
    if fresh.modules_to_save:
        if head is None:
            raise InputError("the adapter has no score head", where=given.uri, hint="give one that reward has made")
        with torch.no_grad():
            score_head(adapted).copy_(head)
    say(job.name, f"goes on from {given.uri}: r {config.r}, lora_alpha {config.lora_alpha:g}")
    return adapted


def refuse_adapter(job: Job[Any]) -> None:
    """Refuses to train all parameters of a model and go on from an adapter at once.

    Raises:
        UserError: An adapter was given.
    """
    if job.has(ADAPTER):
        raise UserError("no adapter is trained with lora: null", where=f"{job.name}.adapter", hint="merge it first")


def load_adapter_weights(model: Any, folder: Path, adapter: str) -> Tensor | None:
    """Loads a saved adapter's LoRA weights into an adapter that the model already has.

    PEFT would drop a score head it has no place for, without a word; here every tensor must find its place.

    Args:
        model: A PEFT model.
        folder: Holds adapter_model.safetensors.
        adapter: Name of the adapter to fill.

    Returns:
        The score head's weight if there is one, float32, shape (1, hidden).

    Raises:
        InputError: A tensor has no place or the wrong shape.
    """
    head = None
    places = dict(model.named_parameters())
    unfilled = {name for name in places if f".{adapter}." in name and ".modules_to_save." not in name}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        if name == _HEAD:
            head = tensor.float()
            continue
        place = name.removesuffix(".weight") + f".{adapter}.weight"
        target = places.get(place)
        if target is None or target.shape != tensor.shape:
            raise InputError(
                f"tensor {name} of shape {tuple(tensor.shape)} has no place in this model", where=str(folder)
            )
        fill(target, tensor)
        unfilled.discard(place)
    if unfilled:
        raise InputError(f"there are no weights for {min(unfilled)}", where=str(folder))
    return head


def read_adapter_config(folder: Path) -> Any:
    """PEFT's configuration of a saved adapter, as one for a causal language model without further modules."""
    from peft import LoraConfig

    fields = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    kept = ("r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern")
    return LoraConfig(
        task_type="CAUSAL_LM", lora_dropout=0.0, **{name: fields[name] for name in kept if name in fields}
    )
