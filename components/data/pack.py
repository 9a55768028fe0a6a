"""Best-fit packing: short sequences share a row, so that almost no position of a row is empty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Which sequences share a row.

    Attributes:
        order: Sequence indices, row after row.
        offsets: Start of each row in `order`, and the end of the last: shape (rows + 1,).
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> NDArray[np.int64]:
        """The sequences of a row."""
        return self.order[self.offsets[index] : self.offsets[index + 1]]


def pack(lengths: NDArray[np.int64], capacity: int) -> Rows:
    """Packs sequences by best-fit decreasing (Krell et al. 2021, arXiv:2107.02027).

    The longest sequence goes first, each into the row that it fills best. Rows by free space are found in a bit set,
    so the cost per sequence does not grow with the number of rows.

    Args:
        lengths: Length of each sequence, all between 1 and `capacity`.
        capacity: Tokens in a row.
    """
    rows: list[list[int]] = []
    with_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit s is set when some row has exactly s tokens free
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = with_space[space].pop()
            if not with_space[space]:
                spaces &= ~(1 << space)
            rows[row].append(index)
            left = space - length
        else:
            row = len(rows)
            rows.append([index])
            left = capacity - length
        if left:
            with_space[left].append(row)
            spaces |= 1 << left
    order = np.asarray([index for row in rows for index in row], np.int64)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Rows(order, offsets)


def one_each(count: int) -> Rows:
    """Rows of one sequence each: no packing."""
    return Rows(np.arange(count, dtype=np.int64), np.arange(count + 1, dtype=np.int64))
