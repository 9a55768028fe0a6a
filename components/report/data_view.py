"""The page's section on data: what became of the rows, and how often the policy solved which prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report import formats
from components.report.collect import RunData
from components.report.verdict import title


@dataclass(frozen=True)
class Part:
    """A stretch of a bar: what it stands for, how many rows, and its share of all."""

    kind: str
    label: str
    rows: int
    share: float


@dataclass(frozen=True)
class Dropped:
    """Rows that were left out for one reason."""

    count: int
    reason: str
    first: str


@dataclass(frozen=True)
class DatasetView:
    """One stage's dataset.

    Attributes:
        title: What it holds.
        rows: Rows read.
        parts: What became of them; the shares sum to 1.
        dropped: Those that were left out, by reason.
        cells: The table's other columns.
    """

    title: str
    rows: int
    parts: list[Part]
    dropped: list[Dropped]
    cells: list[str]


COLUMNS = ("Train tokens", "Held-out tokens", "Label tokens", "Longest", "Packed rows", "Padding", "Cut short")


@dataclass(frozen=True)
class SolveRate:
    """A group of prompts: how often it was solved, and whether rl trained on it."""

    group: str
    rate: float
    is_kept: bool


def dataset_views(run: RunData) -> list[DatasetView]:
    """The datasets of the stages that are on."""
    return [
        _dataset(title(artifact.manifest.stage), artifact.manifest.metrics) for artifact in run.step("data").artifacts
    ]


def solve_rates(run: RunData) -> list[SolveRate]:
    """Rates by group, if rl chose its prompts by them."""
    settings = (run.config.get("rl") or {}).get("solve_rate") or {}
    rates: Mapping[str, float] = run.step("rl").metrics.get("solve_rate") or {}
    low, high = settings.get("low", 0.0), settings.get("high", 1.0)
    return [SolveRate(group, rate, low <= rate <= high) for group, rate in rates.items()]


def _dataset(name: str, counts: Mapping[str, Any]) -> DatasetView:
    dropped = [Dropped(int(d["count"]), str(d["reason"]), str(d["first"])) for d in counts["dropped"]]
    rows = int(counts["rows"])
    # A document may be cut into several rows, and a conversation be refused after the split: the lesser is the records.
    train = min(counts["train"], counts["train_rows"])
    heldout = min(counts["heldout"], counts["heldout_rows"])
    left_out = sum(entry.count for entry in dropped)
    unused = max(rows - train - heldout - counts["duplicates"] - left_out, 0)
    kinds = (
        ("train", "train", train),
        ("heldout", "held out", heldout),
        ("unused", "not used", unused),
        ("duplicate", "repeated", int(counts["duplicates"])),
        ("dropped", "dropped", left_out),
    )
    parts = [Part(kind, label, number, number / max(rows, 1)) for kind, label, number in kinds if number]
    padding = counts.get("train_padding_share")
    cells = [
        f"{counts['train_tokens']:,}",
        f"{counts['heldout_tokens']:,}",
        f"{counts['train_label_tokens']:,}" if "train_label_tokens" in counts else "",
        f"{counts['train_longest']:,}",
        f"{counts['train_packed_rows']:,}" if "train_packed_rows" in counts else "",
        formats.percent(padding) if padding is not None else "",
        f"{counts['truncated']:,}",
    ]
    return DatasetView(name, rows, parts, dropped, cells)
