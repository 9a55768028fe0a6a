"""Rows → records of two sides, train and held out, without repetition and without a way across.

The side is decided by a hash of the prompt (of the text, for documents), not by chance or order: it is the same in
every run, on every machine and, with the same fraction, in every stage, because every task hashes the same prompt. So
all answers to one prompt fall on one side, and no stage is measured on a prompt that an earlier one was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from components.common.errors import UserError
from components.common.manifest import canonical_json
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


@dataclass(frozen=True, slots=True)
class Placed:
    """A record, the side it is on, the number of the source it came from, and its place there, for messages."""

    record: Record
    side: Side
    source: int
    where: str


class Collection:
    """The records that rows give, each with its side. Iterate once; `counts` is then complete.

    Of rows that say the same the first is kept, whatever source it is in, so that none can be on both sides. Memory: 11
    to 21 bytes per record.

    Args:
        sources: The rows of each source.
        task: What the records are for.
        fraction: Share to hold out, 0 for none.
        split_by: Column to split by (see `in_heldout`).
    """

    def __init__(
        self, sources: Sequence[Iterable[Row]], task: Task, fraction: float, split_by: str | None = None
    ) -> None:
        self._sources, self._task, self._fraction, self._split_by = sources, task, fraction, split_by
        self._tallies = [_Tally() for _ in sources]

    def __iter__(self) -> Iterator[Placed]:
        """Yields every record with its side.

        Raises:
            UserError: A row is of no known form, or in the end a side has no records.
        """
        seen = FingerprintSet()
        for number, (rows, tally) in enumerate(zip(self._sources, self._tallies, strict=True)):
            for row in rows:
                tally.rows += 1
                record = normalise(self._task, row)
                if isinstance(record, Dropped):
                    tally.drop(DropCount(record.reason, 1, record.where))
                elif not seen.add(fingerprint(record)):
                    tally.duplicates += 1
                else:
                    heldout = in_heldout(record, self._fraction, self._split_by, row.where)
                    side: Side = "heldout" if heldout else "train"
                    tally.kept[side] += 1
                    yield Placed(record, side, number, row.where)
        self._check()

    @property
    def by_source(self) -> list[Counts]:
        """What became of the rows read so far, source by source."""
        return [tally.counts() for tally in self._tallies]

    @property
    def counts(self) -> Counts:
        """What became of all rows read so far."""
        total = _Tally()
        for counts in self.by_source:
            total.rows += counts.rows
            total.duplicates += counts.duplicates
            total.kept["train"] += counts.train
            total.kept["heldout"] += counts.heldout
            for drop in counts.dropped:
                total.drop(drop)
        return total.counts()

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


@dataclass
class _Tally:
    """`Counts` while they grow."""

    rows: int = 0
    duplicates: int = 0
    kept: dict[Side, int] = field(default_factory=lambda: {"train": 0, "heldout": 0})
    dropped: dict[str, DropCount] = field(default_factory=dict)

    def drop(self, more: DropCount) -> None:
        before = self.dropped.get(more.reason)
        self.dropped[more.reason] = replace(before, count=before.count + more.count) if before else more

    def counts(self) -> Counts:
        dropped = sorted(self.dropped.values(), key=lambda drop: (-drop.count, drop.reason))
        return Counts(self.rows, self.kept["train"], self.kept["heldout"], self.duplicates, tuple(dropped))
