"""Rows → records of two sides, train and held out, without repetition and without a way across.

The side is decided by a hash of the prompt (of the text, for documents), not by chance or order: it is the same in
every run, on every machine and, with the same fraction, in every stage, because every task hashes the same prompt. So
all answers to one prompt fall on one side, and no stage is measured on a prompt that an earlier one was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from components.common.artifacts import canonical_json
from components.common.errors import UserError
from components.data.dedup import FingerprintSet, asked, fingerprint, hash_share
from components.data.normalise import Dropped, normalise
from components.data.records import Record, Task
from components.data.row import Row

Side = Literal["train", "heldout"]


@dataclass(frozen=True)
class DropCount:
    """How many rows were dropped for one reason, and where the first of them is."""

    reason: str
    count: int
    first: str


@dataclass(frozen=True)
class Counts:
    """What became of the rows: `rows` is the sum of all the others.

    Attributes:
        rows: Rows read.
        train: Records for training.
        heldout: Records held out.
        duplicates: Rows that say what an earlier one said.
        dropped: The unusable ones by reason, the most frequent first.
    """

    rows: int
    train: int
    heldout: int
    duplicates: int
    dropped: tuple[DropCount, ...]


def in_heldout(record: Record, fraction: float, split_by: str | None = None, where: str = "") -> bool:
    """Whether a record is held out. A larger fraction holds out the same records and more.

    Args:
        record: The record.
        fraction: The expected share of prompts (or groups) that are held out, 0 to 1.
        split_by: Column whose equal values keep records on one side, in place of the prompt.
        where: The row's place, for messages.

    Raises:
        UserError: The record has no such column.
    """
    return hash_share(asked(record) if split_by is None else _group(record, split_by, where)) < fraction


def _group(record: Record, column: str, where: str) -> str:
    value = record.columns.get(column)
    if value is None:
        known = ", ".join(sorted(record.columns)) or "none"
        raise UserError(
            f"the row has no column {column} to split by",
            where=where,
            hint=f"columns beside the text: {known}; leave split_by out to split by prompt",
        )
    return canonical_json(value).decode()


class Collection:
    """The records that rows give, each with its side. Iterate once; `counts` is then complete.

    Of rows that say the same the first is kept, so that none can be on both sides. Memory: 11 to 21 bytes per record.

    Args:
        rows: What to read, of all sources.
        task: What the records are for.
        fraction: Share to hold out, 0 for none.
        split_by: Column to split by (see `in_heldout`).
    """

    def __init__(self, rows: Iterable[Row], task: Task, fraction: float, split_by: str | None = None) -> None:
        self._rows, self._task, self._fraction, self._split_by = rows, task, fraction, split_by
        self._read = self._duplicates = 0
        self._kept: dict[Side, int] = {"train": 0, "heldout": 0}
        self._dropped: dict[str, DropCount] = {}

    def __iter__(self) -> Iterator[tuple[Side, Record]]:
        """Yields every record with its side.

        Raises:
            UserError: A row is of no known form, or in the end a side has no records.
        """
        seen = FingerprintSet()
        for row in self._rows:
            self._read += 1
            record = normalise(self._task, row)
            if isinstance(record, Dropped):
                self._drop(record)
            elif not seen.add(fingerprint(record)):
                self._duplicates += 1
            else:
                heldout = in_heldout(record, self._fraction, self._split_by, row.where)
                side: Side = "heldout" if heldout else "train"
                self._kept[side] += 1
                yield side, record
        self._check()

    @property
    def counts(self) -> Counts:
        """What became of the rows read so far."""
        dropped = sorted(self._dropped.values(), key=lambda drop: (-drop.count, drop.reason))
        return Counts(self._read, self._kept["train"], self._kept["heldout"], self._duplicates, tuple(dropped))

    def _drop(self, row: Dropped) -> None:
        before = self._dropped.get(row.reason, DropCount(row.reason, 0, row.where))
        self._dropped[row.reason] = replace(before, count=before.count + 1)

    def _check(self) -> None:
        counts = self.counts
        if not counts.rows:
            raise UserError("there are no rows", hint="give a source that has some")
        kept = counts.train + counts.heldout
        if counts.train and (counts.heldout or self._fraction == 0):
            return
        worst = counts.dropped[0] if counts.dropped else None
        because = f", {worst.count} dropped: {worst.reason}, first at {worst.first}" if worst else ""
        if not kept:
            hint = f"mend the rows, or check that they are meant for {self._task}"
            raise UserError(f"no row of {counts.rows} can be used{because}", hint=hint)
        side, unit = "held-out" if counts.train else "training", self._split_by or "prompt"
        raise UserError(
            f"the {side} split is empty: {kept} of {counts.rows} rows kept, {counts.duplicates} repeated{because}",
            hint=f"give more rows, change the held-out fraction ({self._fraction:g}), or split by a column that"
            f" differs more than {unit}",
        )
