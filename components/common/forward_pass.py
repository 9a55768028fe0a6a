"""A model's forward pass in its parts: padded rows, the transformer below the head, the head on chosen positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.common.device import DevicePolicy


def pad(rows: Sequence[NDArray[np.int64]], value: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pads rows to one width.

    Returns:
        Token ids and attention mask, both of shape (rows, width).
    """
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), value, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def backbone(model: Any) -> Any:
    """The transformer below a model's head, with any adapters in it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, base.base_model_prefix)


def head_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A causal language model's logits for hidden states, in float32, as its own forward pass gives them.

    Args:
        model: With or without adapters.
        hidden: Last hidden states of any positions, shape (…, hidden).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    logits: torch.Tensor = base.get_output_embeddings()(hidden).float()
    config = base.config
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def autocast(policy: DevicePolicy) -> torch.autocast:
    """Mixed precision on a GPU; nothing on a CPU."""
    on = policy.device.type == "cuda"
    return torch.autocast(policy.device.type, dtype=policy.compute_dtype if on else torch.bfloat16, enabled=on)


def last_token_scores(model: Any, ids: torch.Tensor, mask: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """A reward model's scores: its head applied to each row's last token.

    Args:
        model: Whose backbone to use.
        ids: Right-padded token ids, shape (rows, width).
        mask: Attention mask, shape (rows, width).
        head: The score head's weight, shape (1, hidden).

    Returns:
        Scores in float32, shape (rows,).
    """
    hidden = backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = mask.sum(1) - 1
    final = hidden[torch.arange(len(ids), device=ids.device), last]
    with torch.autocast(final.device.type, enabled=False):  # it would round the product to half precision
        scores: torch.Tensor = (final.float() @ head.float().T).squeeze(-1)
    return scores
