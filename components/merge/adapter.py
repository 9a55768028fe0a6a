"""A PEFT LoRA adapter as it lies in its folder: which weight gets which B·A at which scale, what is replaced whole.

Only what is known to be a plain LoRA passes. A field that is not known and is set may change the mathematics, so it is
refused by name and not ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.common.errors import InputError, UserError
from components.merge.json_file import read_json
from components.merge.safetensors_file import Tensor, read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FLOATS = ("F32", "F16", "BF16")
TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]

_READ = {
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
}
# Where the adapter came from, which modules it was put on, how it was trained: nothing that a merge would compute with.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
}
# PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change the base's weights before training; unknown ones might.
_INITS_ON_THE_PLAIN_BASE = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Lora:
    """The update of one linear layer: W + scale · B·A, with A of shape (r, in) and B of shape (out, r)."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An adapter's content, by names of the model it was trained on.

    Attributes:
        folder: Where it lies.
        task_type: What it was trained for.
        loras: Update by name of the weight it belongs to.
        replacements: Tensors of `modules_to_save`, which take the place of the base's.
    """

    folder: Path
    task_type: TaskType
    loras: dict[str, Lora]
    replacements: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """All of its tensors."""
        factors = [tensor for lora in self.loras.values() for tensor in (lora.a, lora.b)]
        return [*factors, *self.replacements.values()]


def read_adapter(folder: Path) -> Adapter:
    """Reads an adapter's configuration and the header of its weights.

    Raises:
        UserError: It is not a plain LoRA adapter: the field or tensor is named.
        InputError: A file is missing or damaged, or the tensors do not fit the configuration.
    """
    config = read_json(folder / CONFIG)
    task_type = _check(config, str(folder / CONFIG))
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"has no {WEIGHTS}", where=str(folder), hint="save the adapter as safetensors")
    _, tensors = read_header(weights)
    if not tensors:
        raise InputError("holds no tensors", where=str(weights), hint="save the adapter again")
    factors: dict[str, dict[str, Tensor]] = {}
    replacements: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.dtype not in FLOATS:
            raise UserError(f"{tensor.name} is of type {tensor.dtype}, not {' or '.join(FLOATS)}", where=str(weights))
        module, name, factor = _split(tensor, weights)
        if factor:
            factors.setdefault(module, {})[factor] = tensor
        else:
            replacements[name] = tensor
    loras = {f"{module}.weight": _lora(module, pair, config, weights) for module, pair in factors.items()}
    return Adapter(folder, task_type, loras, replacements)


def scale_of(module: str, config: Mapping[str, Any]) -> tuple[int, float]:
    """Rank and scale of a module's update, as PEFT finds them.

    The first pattern that matches the whole name, or its end from a dot on, replaces the general value. The scale is
    alpha/r, or alpha/√r for rank-stabilised LoRA (https://arxiv.org/abs/2312.03732).
    """
    rank = int(_lookup(config.get("rank_pattern"), module, config["r"]))
    alpha = float(_lookup(config.get("alpha_pattern"), module, config["lora_alpha"]))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check(config: Mapping[str, Any], where: str) -> TaskType:
    if config.get("peft_type") != "LORA":
        raise UserError(f"peft_type is {config.get('peft_type')}, only LORA can be merged", where=where)
    unsupported = sorted(
        name
        for name, value in config.items()
        if name not in _READ | _HARMLESS and value and not (name == "bias" and value == "none")
    )
    if unsupported:
        shown = ", ".join(f"{name}={config[name]!r}" for name in unsupported)
        raise UserError(f"{shown} cannot be merged here", where=where, hint="train a plain LoRA, or merge with PEFT")
    init = config.get("init_lora_weights", True)
    if init not in _INITS_ON_THE_PLAIN_BASE:
        raise UserError(
            f"init_lora_weights={init!r} may have changed the base's weights, so that B·A is no update of this base",
            where=where,
            hint="convert the adapter with PEFT's path_initial_model_for_weight_conversion",
        )
    missing = [name for name in ("r", "lora_alpha") if name not in config]
    if missing:
        raise InputError(f"has no {', '.join(missing)}", where=where, hint="save the adapter with PEFT")
    task_type = config.get("task_type")
    if task_type not in ("CAUSAL_LM", "SEQ_CLS"):
        raise UserError(f"task_type is {task_type}, only CAUSAL_LM and SEQ_CLS can be merged", where=where)
    return "SEQ_CLS" if task_type == "SEQ_CLS" else "CAUSAL_LM"


def _split(tensor: Tensor, weights: Path) -> tuple[str, str, str]:
    """Module and factor ("A", "B" or "") of an adapter tensor, and the name it has in the model."""
    name = tensor.name.removeprefix(PREFIX)
    if name == tensor.name:
        raise InputError(f"{name} does not begin with {PREFIX}", where=str(weights), hint="save the adapter with PEFT")
    for factor in ("A", "B"):
        if name.endswith(f".lora_{factor}.weight"):
            return name.removesuffix(f".lora_{factor}.weight"), name, factor
    if ".lora_" in name or ".base_layer." in name:
        raise UserError(
            f"{tensor.name} is not a factor of a linear layer (DoRA, a bias or LoRA on an embedding?)",
            where=str(weights),
            hint="train LoRA on linear layers only; embeddings go into modules_to_save",
        )
    return name.rpartition(".")[0], name, ""


def _lora(module: str, pair: Mapping[str, Tensor], config: Mapping[str, Any], weights: Path) -> Lora:
    if len(pair) != 2:
        raise InputError(f"{PREFIX}{module} has only lora_{next(iter(pair))}, not both factors", where=str(weights))
    a, b = pair["A"], pair["B"]
    rank, scale = scale_of(module, config)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise InputError(
            f"{PREFIX}{module}: A {list(a.shape)} and B {list(b.shape)} are not factors of rank {rank}",
            where=str(weights),
            hint=f"is {CONFIG} the one saved with these weights?",
        )
    return Lora(a, b, scale)


def _lookup(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    pattern = pattern or {}
    matches = (value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(matches, pattern.get(module, default))
