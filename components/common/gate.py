"""Whether a stage did what it is for: its main held-out metric must beat the model that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.common.errors import UserError
from components.common.logs import say


def check_improvement(stage: str, metrics: Mapping[str, Any], metric: str, *, higher: bool, required: bool) -> None:
    """Compares `metrics["before"][metric]` with `metrics["after"][metric]` and says the result.

    Args:
        stage: Name of the stage.
        metrics: What the stage measured.
        metric: Its main metric.
        higher: Whether higher is better.
        required: Fail when there is no improvement.

    Raises:
        UserError: There is none although it is required.
    """
    before, after = float(metrics["before"][metric]), float(metrics["after"][metric])
    say(stage, f"held-out {metric} {before:.4g} → {after:.4g}", before=before, after=after)
    if required and not (after > before if higher else after < before):
        raise UserError(
            f"held-out {metric} is no better than before: {before:.4g} → {after:.4g}",
            where=stage,
            hint=f"train longer, change {stage}.learning_rate, or set {stage}.require_improvement=false",
        )
