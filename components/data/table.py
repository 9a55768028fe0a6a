"""Token tables: a dataset artifact's files, memory-mapped when read.

    train/tokens.npy     all tokens, one sequence after the other (uint16 or uint32)
    train/offsets.npy    start of each sequence and the end of the last (int64)
    train/trained.npy    1 where a token carries a label (uint8); absent if all do
    train/order.npy, train/rows.npy    which sequences share a packed row

A preference dataset has two tables, `train/chosen` and `train/rejected`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import InputError
from components.data.pack import Rows, one_each, pack
from components.data.tokenise import Tokens


@dataclass(frozen=True)
class TokenTable:
    """Sequences of token ids.

    Attributes:
        tokens: All ids, shape (total,).
        offsets: Shape (sequences + 1,).
        trained: Shape (total,), or None if every token carries a label.
        rows: Packed rows, if the table is packed.
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    trained: NDArray[np.uint8] | None = None
    rows: Rows | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.offsets)

    def ids(self, index: int) -> NDArray[np.int64]:
        """Token ids of a sequence."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def labels(self, index: int) -> NDArray[np.int64]:
        """Token ids of a sequence where they carry a label, -100 elsewhere."""
        ids = self.ids(index)
        if self.trained is None:
            return ids
        return np.where(self.trained[self.offsets[index] : self.offsets[index + 1]], ids, -100)

    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens in each packed row, shape (rows,)."""
        if self.rows is None:
            raise InputError("the dataset is not packed")
        return np.add.reduceat(self.lengths[self.rows.order], self.rows.offsets[:-1])

    def packed(self, row: int) -> dict[str, list[int]]:
        """A packed row: `input_ids` and `labels` of its sequences one after the other, and their `seq_lengths`."""
        if self.rows is None:
            raise InputError("the dataset is not packed")
        sequences = self.rows.row(row).tolist()
        return {
            "input_ids": np.concatenate([self.ids(i) for i in sequences]).tolist(),
            "labels": np.concatenate([self.labels(i) for i in sequences]).tolist(),
            "seq_lengths": [int(self.offsets[i + 1] - self.offsets[i]) for i in sequences],
        }

    def save(self, folder: Path) -> None:
        """Writes the table's files."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tokens.npy", self.tokens)
        np.save(folder / "offsets.npy", self.offsets)
        if self.trained is not None:
            np.save(folder / "trained.npy", self.trained)
        if self.rows is not None:
            np.save(folder / "order.npy", self.rows.order)
            np.save(folder / "rows.npy", self.rows.offsets)

    @staticmethod
    def load(folder: Path) -> TokenTable:
        """Maps a table's files into memory.

        Raises:
            InputError: The folder holds no token table.
        """

        def array(name: str) -> NDArray[Any] | None:
            path = folder / f"{name}.npy"
            return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None

        tokens, offsets = array("tokens"), array("offsets")
        if tokens is None or offsets is None:
            raise InputError("holds no token table", where=str(folder), hint="give the dataset of this stage's task")
        order, rows = array("order"), array("rows")
        return TokenTable(
            tokens, offsets, array("trained"), Rows(order, rows) if order is not None and rows is not None else None
        )


def build_table(sequences: Sequence[Tokens], vocab_size: int) -> TokenTable:
    """Joins sequences into a table.

    Args:
        sequences: What to join.
        vocab_size: Size of the model's embedding; decides the integer type.
    """
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    offsets = np.cumsum([0, *(len(s.ids) for s in sequences)], dtype=np.int64)
    tokens = np.concatenate([s.ids for s in sequences]).astype(dtype)
    if all(s.trained is None for s in sequences):
        return TokenTable(tokens, offsets)
    masks = [np.ones(len(s.ids), np.uint8) if s.trained is None else s.trained.astype(np.uint8) for s in sequences]
    return TokenTable(tokens, offsets, np.concatenate(masks))


def split_long(table: TokenTable, max_length: int) -> TokenTable:
    """Cuts sequences into pieces of at most `max_length` tokens; no token is lost."""
    starts = [
        np.arange(begin, end, max_length) for begin, end in zip(table.offsets[:-1], table.offsets[1:], strict=True)
    ]
    offsets = np.concatenate([*starts, table.offsets[-1:]]).astype(np.int64)
    return TokenTable(table.tokens, offsets, table.trained)


def in_rows(table: TokenTable, capacity: int | None) -> TokenTable:
    """Puts sequences into rows.

    Args:
        table: The sequences.
        capacity: Tokens in a packed row; None gives every sequence a row of its own.
    """
    rows = one_each(len(table)) if capacity is None else pack(table.lengths, capacity)
    return TokenTable(table.tokens, table.offsets, table.trained, rows)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")


def read_jsonl(path: Path) -> list[Any]:
    """Reads one JSON object a line."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
