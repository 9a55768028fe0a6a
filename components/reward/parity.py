"""Scored pairs that travel with a reward model, so that whoever loads it can see that it still gives these scores.

The trained head of a reward model is easily lost on the way: it lies beside the backbone under another name, and
loaders that do not find it make a new one without an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from components.common.errors import InputError
from components.data.table import TokenTable

if TYPE_CHECKING:
    from components.common.evaluation import PairScores
    from components.reward.stage import Pairs

FILE = "parity.safetensors"
# Half precision moves scores by one or two hundredths of their spread, a lost or foreign head by all of it. On a base
# in 4 bits an adapter is trained against that base's rounding, which its merge into the whole base does not have.
TOLERANCE, TOLERANCE_4BIT = 0.1, 0.5


@dataclass(frozen=True)
class Parity:
    """Sequences and the scores that the reward model gave them when its training ended.

    Attributes:
        sequences: Token ids.
        scores: Shape (sequences,).
        tolerance: Largest difference allowed to a copy, as a share of the scores' spread.
    """

    sequences: tuple[NDArray[np.int64], ...]
    scores: NDArray[np.float64]
    tolerance: float = TOLERANCE

    def check(self, scores: NDArray[np.float64], where: str) -> None:
        """Compares scores given by another copy of the model.

        Args:
            scores: What the copy gave `sequences`, shape (sequences,).
            where: The copy, for the message.

        Raises:
            InputError: They differ: head or adapter is not the one that was trained.
        """
        difference = float(np.abs(scores - self.scores).max())
        if not difference <= self.tolerance * max(float(self.scores.std()), 1e-3):
            raise InputError(
                f"does not score as it did when it was trained: up to {difference:.3g} apart on {len(scores)} answers",
                where=where,
                hint="adapter, score head and base do not belong together: run the reward stage again",
            )


def save_parity(folder: Path, pairs: Pairs, scores: PairScores, count: int, *, quantised: bool = False) -> None:
    """Stores the first pairs with their scores."""
    count = min(count, len(scores.chosen))
    sequences = [table.ids(i) for table in (pairs.chosen, pairs.rejected) for i in range(count)]
    values = np.concatenate([scores.chosen[:count], scores.rejected[:count]])
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    tolerance = np.asarray(TOLERANCE_4BIT if quantised else TOLERANCE)
    tensors = {"tokens": np.concatenate(sequences), "offsets": offsets, "scores": values, "tolerance": tolerance}
    save_file(tensors, folder / FILE)


def load_parity(folder: Path) -> Parity | None:
    """Reads the stored scores, if the model has some."""
    if not (folder / FILE).is_file():
        return None
    stored = load_file(folder / FILE)
    table = TokenTable(stored["tokens"], stored["offsets"])
    return Parity(tuple(table.ids(i) for i in range(len(table))), stored["scores"], float(stored["tolerance"]))
