"""What of a model is trained: the linear layers that get adapters, and parameters in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from components.common.errors import UserError
from components.common.models import HEADS

if TYPE_CHECKING:
    from components.common.training import LoraSettings


def lora_targets(model: nn.Module) -> list[str]:
    """Names of all linear layers but the heads, as PEFT wants them: last parts, sorted, without doubles."""
    return sorted({name.rpartition(".")[2] for name, layer in model.named_modules() if _is_target(name, layer)})


def _is_target(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in HEADS


def lora_config(model: Any, settings: LoraSettings, task_type: str) -> Any:
    """PEFT's configuration for a model.

    Args:
        model: The base.
        settings: Rank, scale and targets.
        task_type: `CAUSAL_LM` or `SEQ_CLS`; the latter also trains the score head.

    Raises:
        UserError: A target matches no linear layer.
    """
    from peft import LoraConfig

    known = lora_targets(model)
    if not known:
        raise UserError(
            f"a model of type {model.config.model_type} has no linear layers that LoRA could adapt",
            hint="take a llama-like model, or train all parameters (lora: null)",
        )
    targets = known if settings.target_modules == "all-linear" else sorted(settings.target_modules)
    unmatched = [name for name in targets if name not in known]
    if unmatched:
        raise UserError(
            f"lora.target_modules: {', '.join(unmatched)} matches no linear layer", hint=f"there are {', '.join(known)}"
        )
    return LoraConfig(
        task_type=task_type,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        target_modules=targets,
        modules_to_save=["score"] if task_type == "SEQ_CLS" else None,
    )


def float32_trainables(model: nn.Module) -> list[nn.Parameter]:
    """Casts trainable parameters to float32, which a gradient scaler needs, and returns them."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        if parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return trainable


def score_head(model: Any) -> torch.Tensor:
    """Weight of a PEFT reward model's trained head, shape (1, hidden)."""
    weight: torch.Tensor = model.get_base_model().score.modules_to_save["default"].weight
    return weight


def parameter_count(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, of the trainable ones alone if wished."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
