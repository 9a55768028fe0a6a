"""Records → tokenised rows of two sides: which are used, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

from components.common.errors import UserError
from components.common.logs import say
from components.common.stage import Job
from components.data.config import PartConfig
from components.data.dedup import fingerprint
from components.data.mix import mix
from components.data.records import Document, Preference, Record
from components.data.split import Collection, Placed, Side
from components.data.tokenise import Pair, Rejected, Tokens

CHUNK = 4096  # records tokenised in one call: enough to keep all cores busy, little enough to hold as text

RowT = TypeVar("RowT", Tokens, Pair)
Item = TypeVar("Item")


@dataclass
class Split(Generic[RowT]):
    """One side of the split: tokenised rows, and what must be kept of their records as JSON."""

    rows: list[RowT] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry(Generic[RowT]):
    """A tokenised row; `record` is empty where nothing of it must be kept, `order` decides the order if held out."""

    row: RowT
    source: int
    record: dict[str, Any]
    order: bytes = b""


def collect(
    job: Job[Any],
    collection: Collection,
    tokenise: Callable[[list[Any]], Sequence[RowT | Rejected]],
    *,
    keep_train: bool = False,
) -> tuple[dict[Side, Split[RowT]], dict[str, Any]]:
    """Tokenises records chunk by chunk and chooses the rows of both sides.

    Training rows are mixed by the sources' weights. Held-out rows are put in an order that their text decides, so that
    the first of them are a fair sample of all sources, whatever the order of files and rows.

    Args:
        job: The step; its settings say how many rows of which source are used.
        collection: What to tokenise.
        tokenise: How; one result for each record.
        keep_train: Keep the training records themselves, too; the held-out ones are always kept.

    Returns:
        Both sides, and for the report: rows `rejected` by reason, and counts of the `sources`.

    Raises:
        UserError: A side, or a source that has a weight, has nothing left.
    """
    config: PartConfig = job.config
    entries: dict[Side, list[_Entry[RowT]]] = {"train": [], "heldout": []}
    rejected: dict[str, dict[str, Any]] = {}
    lost = [0] * len(config.sources)
    for chunk in _chunks(collection):
        for placed, row in zip(chunk, tokenise([placed.record for placed in chunk]), strict=True):
            if isinstance(row, Rejected):
                _count(rejected, row.reason, placed.where)
                lost[placed.source] += 1
            else:
                entries[placed.side].append(_entry(placed, row, keep_train))
    for side, found in entries.items():
        _refuse_empty(side, found, rejected)
    heldout = sorted(entries["heldout"], key=lambda entry: entry.order)[: config.max_heldout]
    train = _mixed(job, entries["train"])
    sources = [
        {
            **asdict(counts),
            "dropped": sum(drop.count for drop in counts.dropped) + lost[number],
            **_used(number, "train", train),
            **_used(number, "heldout", heldout),
        }
        for number, counts in enumerate(collection.by_source)
    ]
    _tell(job, sources)
    splits: dict[Side, Split[RowT]] = {"train": _split(train), "heldout": _split(heldout)}
    return splits, {"rejected": sorted(rejected.values(), key=lambda entry: -int(entry["count"])), "sources": sources}


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _entry(placed: Placed, row: RowT, keep_train: bool) -> _Entry[RowT]:
    if placed.side == "heldout":
        return _Entry(row, placed.source, _as_json(placed.record), fingerprint(placed.record))
    return _Entry(row, placed.source, _as_json(placed.record) if keep_train else {})


def _count(rejected: dict[str, dict[str, Any]], reason: str, where: str) -> None:
    entry = rejected.setdefault(reason, {"reason": reason, "count": 0, "first": where})
    entry["count"] += 1


def _refuse_empty(side: Side, found: Sequence[Any], rejected: dict[str, dict[str, Any]]) -> None:
    if not found:
        worst = max(rejected.values(), key=lambda entry: int(entry["count"]))
        raise UserError(
            f"nothing is left on the {side} side, {worst['count']} rows rejected: {worst['reason']}, first at"
            f" {worst['first']}",
            hint="raise max_length, or give other rows",
        )


def _mixed(job: Job[Any], entries: list[_Entry[RowT]]) -> list[_Entry[RowT]]:
    """The training rows that are used, source after source."""
    config: PartConfig = job.config
    if not config.draws:
        return entries
    by_source: list[list[_Entry[RowT]]] = [[] for _ in config.sources]
    for entry in entries:
        by_source[entry.source].append(entry)
    for source, found in zip(config.sources, by_source, strict=True):
        if source.weight is not None and not found:
            raise UserError(
                "has a weight but no training rows",
                where=source.path,
                hint="take it out, or see why its rows are dropped or repeat those of an earlier source",
            )
    chosen = mix([len(found) for found in by_source], config.weights, config.max_samples, job.seed)
    return [found[index] for found, indices in zip(by_source, chosen, strict=True) for index in indices]


def _used(source: int, side: Side, entries: Sequence[_Entry[Any]]) -> dict[str, int]:
    sizes = [_size(entry.row) for entry in entries if entry.source == source]
    return {f"{side}_rows": len(sizes), f"{side}_tokens": sum(sizes)}


def _size(row: Tokens | Pair) -> int:
    return len(row.ids) if isinstance(row, Tokens) else len(row.chosen.ids) + len(row.rejected.ids)


def _tell(job: Job[Any], sources: Sequence[dict[str, Any]]) -> None:
    if len(sources) == 1 and not job.config.draws:
        return
    total = sum(counts["train_rows"] for counts in sources)
    for source, counts in zip(job.config.sources, sources, strict=True):
        used, share = counts["train_rows"], counts["train_rows"] / total
        say(job.name, f"{source.path}: {used} training rows ({share:.1%}) of its {counts['train']}")


def _split(entries: Sequence[_Entry[RowT]]) -> Split[RowT]:
    return Split([entry.row for entry in entries], [entry.record for entry in entries if entry.record])


def _as_json(record: Record) -> dict[str, Any]:
    if isinstance(record, Document):
        return {**record.columns, "text": record.text}
    if isinstance(record, Preference):
        return {
            **record.columns,
            "messages": _turns(record.prompt),
            "chosen": record.chosen,
            "rejected": record.rejected,
        }
    return {**record.columns, "messages": _turns(record.messages)}


def _turns(messages: Iterable[Any]) -> list[dict[str, str]]:
    return [asdict(message) for message in messages]
