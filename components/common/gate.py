"""Whether a stage did what it is for: its main held-out metric must beat the model that it was given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from components.common.errors import UserError
from components.common.logs import say
from components.common.stage import Plan


def check_result(plan: Plan[Any], metrics: Mapping[str, Any]) -> None:
    """Refuses a result whose metrics are no numbers, or no better than before although that is required.

    Args:
        plan: The stage.
        metrics: What it measured, or what the manifest of its finished result says.

    Raises:
        UserError: Naming the metric.
    """
    stage, name = plan.spec.name, plan.spec.main_metric
    broken = [path for path, value in _numbers(metrics) if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"{', '.join(broken[:3])} is no number: training has diverged",
            where=stage,
            hint=f"lower {stage}.learning_rate, or look for broken rows in the data",
        )
    if not name:
        return
    before, after = float(metrics["before"][name]), float(metrics["after"][name])
    say(stage, f"held-out {name} {before:.4g} → {after:.4g}", before=before, after=after)
    better = after > before if plan.spec.higher_is_better else after < before
    if getattr(plan.config, "require_improvement", False) and not better:
        raise UserError(
            f"held-out {name} is no better than before: {before:.4g} → {after:.4g}",
            where=stage,
            hint=f"train longer, change {stage}.learning_rate, or set {stage}.require_improvement=false",
        )


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            yield f"{prefix}{name}", float(value)
