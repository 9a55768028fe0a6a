"""LoRA's part of a linear layer in fewer passes over memory than PEFT's.

PEFT computes `result + lora_B(lora_A(x)) * scaling`: three passes over something as large as the layer's output, and as
many in the backward pass. Here the product is added while it is computed, in place, and scaling is applied where the
rank is the width. The numbers are PEFT's up to rounding; an adapter whose B is zero still changes nothing at all.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


def speed_up_lora(model: nn.Module) -> None:
    """Lets all LoRA adapters of a PEFT model compute here; call it when the model has all its adapters.

    Only for plain LoRA on linear layers, without dropout, which is all that the stages make.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            # PEFT's own way in: an adapter with a variant is computed by the variant.
            layer.lora_variant.update(dict.fromkeys(layer.lora_A, FusedLora))


class FusedLora:
    """A variant of LoRA as PEFT calls it."""

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """Adds an adapter's part to a layer's result, in place.

        Args:
            module: The layer.
            active_adapter: The adapter.
            x: What the layer was given, shape (…, in).
            result: What the frozen layer made of it, shape (…, out).
        """
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        scaling = module.scaling[active_adapter]
        if torch.is_grad_enabled():
            return _AddLora.apply(result, x, a, b, scaling)  # type: ignore[no-any-return, no-untyped-call]
        _add(result, x, a, b, scaling)
        return result


def _add(result: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Adds x Aᵀ Bᵀ × scaling; returns x as a matrix and x Aᵀ × scaling, in the result's type."""
    dtype = result.dtype
    with torch.autocast(result.device.type, enabled=False):
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        narrow = torch.mm(rows, a.to(dtype).t()).mul_(scaling)
        result.view(-1, result.shape[-1]).addmm_(narrow, b.to(dtype).t())
    return rows, narrow


class _AddLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        rows, narrow = _add(result, x, a, b, scaling)
        ctx.save_for_backward(rows, narrow, a, b)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, x.shape, x.dtype
        ctx.mark_dirty(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        grad = grads[0]
        rows, narrow, a, b = ctx.saved_tensors
        wide = grad.reshape(-1, grad.shape[-1])
        inner = torch.mm(wide, b.to(wide.dtype)).mul_(ctx.scaling)
        grad_a = torch.mm(inner.t(), rows).to(a.dtype)
        grad_b = torch.mm(wide.t(), narrow).to(b.dtype)
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = torch.mm(inner, a.to(wide.dtype)).view(ctx.shape).to(ctx.dtype)
        return grad, grad_x, grad_a, grad_b, None
