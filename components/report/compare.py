"""Before against after: what changed, whether that is better, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.report.metrics import SIZES, Metric, describe, rank

Outcome = Literal["better", "worse", "same", "unclear", "none"]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One metric before and after.

    Attributes:
        name: The metric's name.
        before: Its value for the model that went in, where it was measured.
        after: Its value for the model that came out.
        gain: Interval of the change, where the stage gave one.
        certainty: Interval of the value after, where the metric is a share of a known number.
    """

    name: str
    before: float | None
    after: float
    gain: Interval | None = None
    certainty: Interval | None = None

    @property
    def metric(self) -> Metric:
        return describe(self.name)

    @property
    def change(self) -> float | None:
        """After minus before."""
        return None if self.before is None else self.after - self.before

    @property
    def outcome(self) -> Outcome:
        """Whether the change is an improvement; `unclear` if its interval holds both signs."""
        better, change = self.metric.better, self.change
        if not better or change is None or not math.isfinite(change):
            return "none"
        if self.gain and self.gain.low <= 0 <= self.gain.high:
            return "same" if change == 0 else "unclear"
        if change == 0:
            return "same"
        return "better" if (change > 0) == (better == "higher") else "worse"

    def values(self) -> tuple[str, str]:
        """Both values as text, the first empty where there is none."""
        if self.before is None:
            return "", self.metric.show(self.after)
        return self.metric.show_pair(self.before, self.after)

    def sentence(self) -> str:
        """`perplexity 25.7 → 4.90`."""
        before, after = self.values()
        label = self.metric.label
        if label[1:2].islower():  # not an abbreviation such as KL
            label = label[0].lower() + label[1:]
        return f"{label} {before} → {after}" if before else f"{label} {after}"


def stage_comparisons(metrics: Mapping[str, Any]) -> list[Comparison]:
    """Comparisons in a training stage's metrics: `before`, `after`, and `<name>_gain` for intervals."""
    before, after = metrics.get("before") or {}, metrics.get("after") or {}
    return [
        Comparison(
            name,
            _number(before.get(name)),
            float(value),
            _interval(metrics.get(f"{name}_gain")),
            _certainty(name, float(value), after),
        )
        for name, value in sorted(after.items(), key=lambda item: rank(item[0]))
        if name not in SIZES and _number(value) is not None
    ]


def final_comparisons(metrics: Mapping[str, Any]) -> list[Comparison]:
    """Comparisons in the evaluation's metrics: base against final model, one mapping a metric."""
    return [
        Comparison(name, _number(values.get("before")), float(values["after"]), _interval(values.get("gain")))
        for name, values in sorted(metrics.items(), key=lambda item: rank(item[0]))
        if isinstance(values, Mapping) and _number(values.get("after")) is not None
    ]


def measured_on(metrics: Mapping[str, Any]) -> dict[str, int]:
    """How much the values were measured on: tokens, prompts, pairs."""
    after = metrics.get("after") or metrics
    return {name: int(after[name]) for name in ("tokens", "prompts", "pairs") if name in after}


def wilson(share: float, total: int) -> Interval:
    """95 % interval of a share of `total` trials (Wilson 1927), which holds at 0 and 1 too."""
    z2 = 1.959964**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0))


def _certainty(name: str, value: float, sizes: Mapping[str, Any]) -> Interval | None:
    """Of shares of prompts or pairs."""
    group = name.removeprefix("accuracy_")
    total = sizes.get(f"pairs_{group}") or sizes.get("pairs" if "accuracy" in name else "prompts")
    is_share = describe(name).is_share and 0 <= value <= 1
    return wilson(value, int(total)) if is_share and total else None


def _interval(gain: Any) -> Interval | None:
    return Interval(float(gain["low"]), float(gain["high"])) if isinstance(gain, Mapping) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
