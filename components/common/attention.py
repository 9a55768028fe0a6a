"""Attention on GPUs that have no FlashAttention."""

from __future__ import annotations

from typing import Any

import torch

from components.common.device import DevicePolicy


def keep_attention_fused(policy: DevicePolicy) -> None:
    """Has transformers repeat the keys and values of grouped-query attention, where no fused kernel takes them grouped.

    Where rows need no mask (whole sequences without padding), transformers leaves the grouping to torch, as
    FlashAttention can do it. That needs compute capability 8.0, and torch's memory-efficient kernel takes no groups: a
    T4 would be left with plain arithmetic, which keeps a float32 score for each pair of positions, half a gigabyte a
    layer at 2048 tokens and 32 heads.
    """
    if policy.device.type != "cuda" or torch.cuda.get_device_capability(policy.device) >= (8, 0):
        return
    from transformers.integrations import sdpa_attention

    sdpa_attention.use_gqa_in_sdpa = _never


def _never(*_: Any) -> bool:
    return False
