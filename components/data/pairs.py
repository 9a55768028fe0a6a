"""Preference pairs as the reward and dpo stages read them from a dataset artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.data.table import TokenTable


@dataclass(frozen=True)
class Pairs:
    """Preference pairs as two tables of equal length; each sequence is the prompt and one answer.

    Attributes:
        chosen: The better answers.
        rejected: The worse ones.
        margin: Least wanted distance of the scores, shape (pairs,); None if the data name none.
    """

    chosen: TokenTable
    rejected: TokenTable
    margin: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    @staticmethod
    def load(folder: Path) -> Pairs:
        """Maps one side of a dataset, `train` or `heldout`, into memory.

        Raises:
            InputError: The folder holds no pairs.
        """
        margin = folder / "margin.npy"
        return Pairs(
            TokenTable.load(folder / "chosen"),
            TokenTable.load(folder / "rejected"),
            np.load(margin, allow_pickle=False) if margin.is_file() else None,
        )

    def prompt_length(self, index: int) -> int:
        """Number of tokens before the answers of a pair: the first of them that carries a label."""
        return int(np.flatnonzero(self.chosen.labels(index) != -100)[0])
