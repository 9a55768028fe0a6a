"""A stage's result in a few words, for the line that ends a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The metric that says whether the stage did what it is for, and those worth a glance beside it.
HEADLINES: dict[str, tuple[str, ...]] = {
    "pretrain": ("perplexity",),
    "sft": ("loss", "exact_match"),
    "reward": ("accuracy", "margin"),
    "rl": ("reward", "kl"),
    "dpo": ("accuracy", "margin"),
}


def headline(stage: str, metrics: Mapping[str, Any]) -> str:
    """`exact_match 0.02 → 0.71`, for the metrics that say how a stage went."""
    before, after = metrics.get("before") or {}, metrics.get("after") or {}
    shown = [
        f"{name} {before[name]:.4g} → {after[name]:.4g}"
        for name in HEADLINES.get(stage, ())
        if name in before and name in after
    ]
    return ", ".join(shown)
