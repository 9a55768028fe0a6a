"""Packed rows as tensors: a micro-batch is a rectangle, and attention stays inside each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from components.data.table import TokenTable

Row = dict[str, list[int]]


class PackedRows(Dataset[Row]):
    """Rows of a packed table in an order, read from the memory-mapped files when they are asked for."""

    def __init__(self, table: TokenTable, order: NDArray[np.int64]) -> None:
        self._table, self._order = table, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Row:
        return self._table.packed(int(self._order[index]))


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Makes a micro-batch of rows, padded on the right to the longest.

    Rows are stacked, not joined: attention's masks and scores grow with the square of one row's length, not of all
    rows' together. Rows of several sequences get position ids that begin anew with each, by which transformers finds
    the borders; rows of one need nothing, because no token looks to its right, where the padding is.

    Args:
        rows: `input_ids`, `labels` and `seq_lengths` of each row.

    Returns:
        `input_ids`, `labels` and, with several sequences in a row, `position_ids`, of shape (rows, width); `lengths`,
        the tokens of each row, of shape (rows,). A sequence's first token carries no label: nothing inside it predicts
        it.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    shape = len(rows), max(lengths)
    ids, labels = np.zeros(shape, np.int64), np.full(shape, -100, np.int64)
    positions = np.zeros(shape, np.int64)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[index, :length] = row["input_ids"]
        labels[index, :length] = row["labels"]
        sequences = [*row["seq_lengths"], shape[1] - length]
        positions[index] = np.concatenate([np.arange(count) for count in sequences])
    labels[positions == 0] = -100
    batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "lengths": np.asarray(lengths)}
    if any(len(row["seq_lengths"]) > 1 for row in rows):
        batch["position_ids"] = positions
    return {name: torch.from_numpy(values) for name, values in batch.items()}
