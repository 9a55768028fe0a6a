"""Which training rows a stage gets from each of its sources, and how often.

A weight is a share of the training rows. A source that has more rows than its share is cut to a random part of them,
one that has fewer is gone through again: so often in whole, the rest without a row twice. Drawing each row anew, with
replacement, would leave out a third of the rows of a source that is used once, for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mix(
    available: Sequence[int], weights: Sequence[float] | None, max_samples: int | None, seed: int
) -> list[NDArray[np.int64]]:
    """Chooses training rows.

    Args:
        available: Training rows of each source; those with a weight have some.
        weights: Shares of the sources, to any sum; None takes the sources as they are.
        max_samples: Most rows in all; None: as many as there are, which some sources then give twice if others are cut.
        seed: Of the choice.

    Returns:
        The chosen rows of each source, in order; a number that comes twice is a row used twice.
    """
    total = min(sum(available), max_samples or sum(available))
    wanted = apportion(total, available if weights is None else weights)
    return [
        _draw(rows, count, (seed, source)) for source, (rows, count) in enumerate(zip(available, wanted, strict=True))
    ]


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Shares a number out in whole parts, by largest remainder (Hamilton's method).

    Returns:
        Parts that sum to `total`, none of them further than 1 from its exact share.
    """
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    parts = np.floor(exact).astype(np.int64)
    order = np.argsort(parts - exact, kind="stable")
    parts[order[: total - int(parts.sum())]] += 1
    return [int(part) for part in parts]


def _draw(rows: int, count: int, key: tuple[int, int]) -> NDArray[np.int64]:
    if not count:
        return np.zeros(0, np.int64)
    whole, rest = divmod(count, rows)
    some = np.random.default_rng(key).permutation(rows)[:rest]
    return np.sort(np.concatenate([np.tile(np.arange(rows), whole), some]))
