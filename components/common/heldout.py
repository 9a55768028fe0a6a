"""Figures of held-out data, and how much training has gained. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Likelihood:
    """Summed negative log-likelihood in nats and the number of label tokens it was summed over."""

    nll: float
    tokens: int

    @property
    def loss(self) -> float:
        """Nats a label token."""
        return self.nll / max(self.tokens, 1)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 80.0))


@dataclass(frozen=True)
class PairScores:
    """Scores of the two answers of each held-out pair, and their lengths in tokens. All of shape (pairs,)."""

    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]
    chosen_tokens: NDArray[np.int64]
    rejected_tokens: NDArray[np.int64]

    def accuracy(self, where: NDArray[np.bool_] | None = None) -> float:
        """Share of pairs whose chosen answer scores higher; a tie counts one half."""
        margin = self.margins if where is None else self.margins[where]
        return float(((margin > 0) + 0.5 * (margin == 0)).mean()) if len(margin) else float("nan")

    @property
    def margins(self) -> NDArray[np.float64]:
        """Score of the chosen answer minus that of the rejected."""
        return self.chosen - self.rejected

    def metrics(self) -> dict[str, float | int]:
        """Accuracy, margin, loss, and accuracy by which answer is longer (a model that only learnt length shows)."""
        longer = self.chosen_tokens - self.rejected_tokens
        by_length = {"chosen_longer": longer > 0, "equal_length": longer == 0, "chosen_shorter": longer < 0}
        metrics: dict[str, float | int] = {
            "pairs": len(self.margins),
            "accuracy": self.accuracy(),
            "margin": float(self.margins.mean()),
            "loss": float(np.logaddexp(0, -self.margins).mean()),
        }
        for name, where in by_length.items():
            if where.any():
                metrics[f"accuracy_{name}"] = self.accuracy(where)
                metrics[f"pairs_{name}"] = int(where.sum())
        return metrics


def gain_interval(
    before: NDArray[np.float64], after: NDArray[np.float64], *, seed: int = 0, rounds: int = 2000
) -> dict[str, float]:
    """Mean improvement and its 95 % interval by paired bootstrap (Efron 1979).

    Args:
        before: One value a prompt.
        after: The same prompts' values after training.
        seed: Of the resampling.
        rounds: Number of resamples.

    Returns:
        `mean`, and the bounds `low` and `high`.
    """
    gain = after - before
    picks = np.random.default_rng(seed).integers(0, len(gain), (rounds, len(gain)))
    low, high = np.quantile(gain[picks].mean(1), [0.025, 0.975])
    return {"mean": float(gain.mean()), "low": float(low), "high": float(high)}
