"""TRL's DPOTrainer on pairs that are tokens already, with the base itself as the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn
from trl import DPOTrainer

from components.common.sharded_trainer import ShardedCheckpoints
from components.data.pairs import Pairs


class PairTrainer(ShardedCheckpoints, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer without its tokenising, and without its copy of the adapter.

    Args:
        model: A PEFT model whose adapter changes nothing yet.
        kwargs: As DPOTrainer takes them.
    """

    def __init__(self, model: Any, **kwargs: Any) -> None:
        # A given adapter may be trained already, so TRL copies it to be the reference if it is given none. Ours starts
        # at zero: the base with the adapter off, which TRL uses where it has neither, gives the same and costs nothing.
        nobody = _NoModel(model.config)
        super().__init__(model=model, ref_model=nobody, **kwargs)
        self.accelerator._models.remove(nobody)
        self.ref_model: Any = None

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Leaves the rows as they are; TRL would render and encode text that we no longer have."""
        return dataset


class _NoModel(nn.Module):
    """Stands where a reference model would, until the trainer is made."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self) -> None:
        """Computes nothing."""


def pair_dataset(pairs: Pairs, order: NDArray[np.int64]) -> Dataset:
    """Pairs in an order, as TRL's collator wants them, read from the memory-mapped tables row by row."""

    def read(batch: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        for row in batch["row"]:
            start = pairs.prompt_length(row)
            chosen, rejected = pairs.chosen.ids(row).tolist(), pairs.rejected.ids(row).tolist()
            columns["prompt_ids"].append(chosen[:start])
            columns["chosen_ids"].append(chosen[start:])
            columns["rejected_ids"].append(rejected[start:])
        return columns

    return Dataset.from_dict({"row": order}).with_transform(read)
