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
    from components.common.heldout import PairScores
    from components.data.pairs import Pairs

FILE = "parity.safetensors"
# A share of the scores' spread: half precision moves scores by one or two hundredths of it, a lost head by all of it.
TOLERANCE = 0.1
# A base in 4 bits moves scores too far for that, but they keep their order; those of a foreign head have none.
LEAST_CORRELATION = 0.7


@dataclass(frozen=True)
class Parity:
    """Sequences and the scores that the reward model gave them when its training ended.

    Attributes:
        sequences: Token ids.
        scores: Shape (sequences,).
        quantised: Whether the base was in 4 bits.
    """

    sequences: tuple[NDArray[np.int64], ...]
    scores: NDArray[np.float64]
    quantised: bool = False

    def check(self, scores: NDArray[np.float64], where: str, *, quantised: bool = False) -> None:
        """Compares scores given by another copy of the model.

        Args:
            scores: What the copy gave `sequences`, shape (sequences,).
            where: The copy, for the message.
            quantised: Whether the copy's base is in 4 bits.

        Raises:
            InputError: They differ: head or adapter is not the one that was trained.
        """
        difference = float(np.abs(scores - self.scores).max())
        if quantised or self.quantised:
            same = _correlation(scores, self.scores) >= LEAST_CORRELATION
        else:
            same = difference <= TOLERANCE * max(float(self.scores.std()), 1e-3)
        if not same:
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
    tensors = {"tokens": np.concatenate(sequences), "offsets": offsets, "scores": values}
    save_file({**tensors, "quantised": np.asarray(quantised)}, folder / FILE)


def load_parity(folder: Path) -> Parity | None:
    """Reads the stored scores, if the model has some."""
    if not (folder / FILE).is_file():
        return None
    stored = load_file(folder / FILE)
    table = TokenTable(stored["tokens"], stored["offsets"])
    return Parity(tuple(table.ids(i) for i in range(len(table))), stored["scores"], bool(stored["quantised"]))


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's; 0 if one of them is constant, as a lost head's scores are."""
    spread = float(one.std() * other.std())
    return float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread > 0 else 0.0
