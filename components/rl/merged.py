"""The policy's adapter folded into the base while the policy writes, and the base's own weights back afterwards.

A token of a completion costs one pass over the weights; LoRA adds two small products to each layer of each pass, which
on a GPU are launches that take longer than their arithmetic. Folded in, the pass is the bare base's. Taking the
product off again would leave rounding behind, and policy, reference and reward all stand on these weights: so they are
copied back, bit by bit, from main memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class FoldedAdapter:
    """Folds one adapter of a PEFT model into its base for a while.

    Layers whose weight another part of the model shares (a head tied to the embedding) keep their adapter beside them.
    The copies are made the first time, on the CPU: the weights of the layers with an adapter, once for each process.

    Args:
        model: A PEFT model whose adapters are plain LoRA on unquantised linear layers.
        adapter: Name of the adapter.
    """

    def __init__(self, model: nn.Module, adapter: str) -> None:
        from peft.tuners.lora import LoraLayer

        owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
        self._adapter = adapter
        self._layers: list[Any] = [
            layer
            for layer in model.modules()
            if isinstance(layer, LoraLayer)
            and adapter in layer.lora_A
            and owners[id(layer.get_base_layer().weight)] == 1
        ]
        self._own: list[Tensor] = []

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Inside, the layers compute base and adapter at once; the adapter must be active, and is again afterwards."""
        if not self._own:
            self._own = [_on_cpu(layer.get_base_layer().weight) for layer in self._layers]
        try:
            for layer in self._layers:
                self._fold(layer)
                layer.enable_adapters(False)
            yield
        finally:
            for layer, own in zip(self._layers, self._own, strict=True):
                layer.get_base_layer().weight.data.copy_(own)
                layer.enable_adapters(True)

    @torch.no_grad()
    def _fold(self, layer: Any) -> None:
        weight = layer.get_base_layer().weight
        a, b = layer.lora_A[self._adapter].weight.float(), layer.lora_B[self._adapter].weight.float()
        with torch.autocast(weight.device.type, enabled=False):
            weight.copy_(torch.addmm(weight.float(), b, a, alpha=layer.scaling[self._adapter]))


def _on_cpu(weight: Tensor) -> Tensor:
    copy = weight.detach().to("cpu", copy=True)
    return copy.pin_memory() if weight.is_cuda else copy
