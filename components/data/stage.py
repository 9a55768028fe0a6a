"""The data step: rows → records → tokens → rows of a table, for one task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from components.common.chat import Chat
from components.common.errors import UserError
from components.common.logs import say
from components.common.stage import Job, Result
from components.common.tokenizer import load_tokenizer, tokenizer_identity
from components.data.config import PartConfig, PretrainPart, RewardPart, RlPart, SftPart
from components.data.model_facts import ModelFacts, read_model_facts
from components.data.readers import read_rows
from components.data.records import Conversation, Document, Preference, Prompt, Record, Task
from components.data.sources import readable
from components.data.split import Collection, Side
from components.data.table import TokenTable, build_table, in_rows, split_long, write_jsonl
from components.data.tokenise import (
    Pair,
    Rejected,
    Tokens,
    tokenise_conversations,
    tokenise_documents,
    tokenise_preferences,
    tokenise_prompts,
)

CHUNK = 4096  # records tokenised in one call: enough to keep all cores busy, little enough to hold as text

Row = TypeVar("Row")
Records = Iterable[tuple[Side, Record]]
Build = Callable[[Job[Any], Chat, Records, ModelFacts], dict[str, Any]]


@dataclass
class Split(Generic[Row]):
    """One side of the split while it grows: tokenised rows, and what must be kept of their records as JSON."""

    rows: list[Row] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


def run(task: Task, job: Job[Any]) -> Result:
    """Writes the dataset of a task."""
    builders: dict[Task, Build] = {"pretrain": _pretrain, "sft": _sft, "reward": _reward, "rl": _rl}
    config: PartConfig = job.config
    tokenizer = load_tokenizer(job.folder("model"))
    model = read_model_facts(job.folder("model"))
    _check_length(job, model)
    rows = chain.from_iterable(
        read_rows(readable(s), max_samples=s.max_samples, sample_by=s.sample_by) for s in config.sources
    )
    collection = Collection(rows, task, config.heldout, config.split_by)
    report = builders[task](job, Chat(tokenizer), collection, model)
    counts = asdict(collection.counts)
    report = {**counts, "dropped": [*counts["dropped"], *report.pop("rejected")], **report}
    (job.out / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for dropped in report["dropped"]:
        say(job.name, f"{dropped['count']} rows dropped: {dropped['reason']} (first: {dropped['first']})")
    say(job.name, f"{report['rows']} rows → {report['train_rows']} train, {report['heldout_rows']} held out")
    return Result("dataset", report, tokenizer_identity(tokenizer))


def _pretrain(job: Job[PretrainPart], chat: Chat, records: Records, model: ModelFacts) -> dict[str, Any]:
    def tokenise(chunk: Sequence[Document]) -> Sequence[Tokens]:
        return tokenise_documents(chat.tokenizer, chunk)

    splits, rejected = _collect(records, tokenise, job.config.max_heldout)
    length = job.config.max_length
    report: dict[str, Any] = {"rejected": rejected, "truncated": 0}
    for side, split in splits.items():
        table = split_long(build_table(split.rows, model.vocab_size), length)
        report |= _write(job.out / side, in_rows(table, length if model.can_pack else None), side, length)
    write_jsonl(job.out / "heldout" / "rows.jsonl", splits["heldout"].records)
    return report


def _sft(job: Job[SftPart], chat: Chat, records: Records, model: ModelFacts) -> dict[str, Any]:
    config = job.config

    def tokenise(chunk: Sequence[Conversation]) -> Sequence[Tokens | Rejected]:
        return tokenise_conversations(chat, chunk, config.max_length, every_turn=config.assistant_turns == "all")

    splits, rejected = _collect(records, tokenise, config.max_heldout)
    report: dict[str, Any] = {"rejected": rejected, "truncated": _truncated(splits)}
    for side, split in splits.items():
        table = build_table(split.rows, model.vocab_size)
        packed = in_rows(table, config.max_length if config.packing and model.can_pack else None)
        report |= _write(job.out / side, packed, side, config.max_length)
    write_jsonl(job.out / "heldout" / "rows.jsonl", splits["heldout"].records)
    return report


def _reward(job: Job[RewardPart], chat: Chat, records: Records, model: ModelFacts) -> dict[str, Any]:
    config = job.config

    def tokenise(chunk: Sequence[Preference]) -> Sequence[Pair | Rejected]:
        pairs = tokenise_preferences(chat, chunk, config.max_length)
        if not config.equal_length:
            return pairs
        unequal = Rejected("the answers differ in their number of tokens")
        return [unequal if isinstance(p, Pair) and len(p.chosen.ids) != len(p.rejected.ids) else p for p in pairs]

    splits, rejected = _collect(records, tokenise, config.max_heldout)
    truncated = sum(pair.chosen.truncated for split in splits.values() for pair in split.rows)
    report: dict[str, Any] = {"rejected": rejected, "truncated": truncated}
    for side, split in splits.items():
        for name in ("chosen", "rejected"):
            table = build_table([getattr(pair, name) for pair in split.rows], model.vocab_size)
            report |= _write(job.out / side / name, table, side, config.max_length)
        if any(pair.margin is not None for pair in split.rows):
            margins = [pair.margin or 0.0 for pair in split.rows]
            np.save(job.out / side / "margin.npy", np.asarray(margins, np.float32))
    write_jsonl(job.out / "heldout" / "rows.jsonl", splits["heldout"].records)
    return report


def _rl(job: Job[RlPart], chat: Chat, records: Records, model: ModelFacts) -> dict[str, Any]:
    def tokenise(chunk: Sequence[Prompt]) -> Sequence[Tokens | Rejected]:
        return tokenise_prompts(chat, chunk, job.config.max_prompt_length)

    splits, rejected = _collect(records, tokenise, job.config.max_heldout, keep_train=True)
    report: dict[str, Any] = {"rejected": rejected, "truncated": _truncated(splits)}
    for side, split in splits.items():
        report |= _write(job.out / side, build_table(split.rows, model.vocab_size), side, job.config.max_prompt_length)
        write_jsonl(job.out / side / "rows.jsonl", split.records)
    return report


def _collect(
    records: Iterable[tuple[Side, Any]],
    tokenise: Callable[[list[Any]], Sequence[Any]],
    max_heldout: int,
    *,
    keep_train: bool = False,
) -> tuple[dict[Side, Split[Any]], list[dict[str, Any]]]:
    """Tokenises records chunk by chunk and sorts them by side.

    Args:
        records: What to tokenise, with its side.
        tokenise: How; one result for each record.
        max_heldout: How many held-out rows are used.
        keep_train: Keep the training records themselves, too; the held-out ones are always kept.

    Raises:
        UserError: A side has nothing left.
    """
    splits: dict[Side, Split[Any]] = {"train": Split(), "heldout": Split()}
    rejected: dict[str, dict[str, Any]] = {}
    for chunk in _chunks(records):
        for (side, record), row in zip(chunk, tokenise([record for _, record in chunk]), strict=True):
            if isinstance(row, Rejected):
                entry = rejected.setdefault(row.reason, {"reason": row.reason, "count": 0, "first": _shown(record)})
                entry["count"] += 1
            elif side == "train" or len(splits[side].rows) < max_heldout:
                splits[side].rows.append(row)
                if side == "heldout" or keep_train:
                    splits[side].records.append(_as_json(record))
    for side, split in splits.items():
        if not split.rows:
            worst = max(rejected.values(), key=lambda entry: int(entry["count"]))
            raise UserError(
                f"nothing is left on the {side} side, {worst['count']} rows rejected: {worst['reason']}",
                where=worst["first"],
                hint="raise max_length, or give other rows",
            )
    return splits, sorted(rejected.values(), key=lambda entry: -int(entry["count"]))


def _chunks(items: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(folder: Path, table: TokenTable, side: Side, max_length: int) -> dict[str, Any]:
    table.save(folder)
    report: dict[str, Any] = {
        f"{side}_rows": len(table),
        f"{side}_tokens": len(table.tokens),
        f"{side}_longest": int(table.lengths.max()),
    }
    if table.rows is not None:
        report[f"{side}_packed_rows"] = len(table.rows)
        report[f"{side}_padding_share"] = round(1 - len(table.tokens) / (len(table.rows) * max_length), 4)
    if table.trained is not None:
        report[f"{side}_label_tokens"] = int(np.sum(table.trained, dtype=np.int64))
    return report


def _truncated(splits: dict[Side, Split[Any]]) -> int:
    return sum(row.truncated for split in splits.values() for row in split.rows)


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


def _shown(record: Record) -> str:
    fields = _as_json(record)
    text = fields.get("text") or fields["messages"][-1]["content"]
    return f"row that begins {text[:60]!r}"


def _check_length(job: Job[Any], model: ModelFacts) -> None:
    name = "max_prompt_length" if isinstance(job.config, RlPart) else "max_length"
    length = getattr(job.config, name)
    if model.max_positions is not None and length > model.max_positions:
        raise UserError(
            f"is {length}, the model has {model.max_positions} positions", where=f"{job.plan.spec.section}.{name}"
        )
    if not model.can_pack and not isinstance(job.config, (RlPart, RewardPart)):
        say(job.name, "this model's attention would cross the borders of packed sequences: one sequence a row")
