"""The data step: rows → records → tokens → rows of a table, for one task."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.common.chat import Chat
from components.common.errors import UserError
from components.common.logs import say
from components.common.stage import Job, Result
from components.common.tokenizer import load_tokenizer, tokenizer_identity
from components.data.collect import Split, collect
from components.data.config import PartConfig, PretrainPart, RewardPart, RlPart, SftPart
from components.data.model_facts import ModelFacts, read_model_facts
from components.data.readers import read_rows
from components.data.records import Conversation, Document, Preference, Prompt, Task
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

Build = Callable[[Job[Any], Chat, Collection, ModelFacts], dict[str, Any]]


def run(task: Task, job: Job[Any]) -> Result:
    """Writes the dataset of a task."""
    builders: dict[Task, Build] = {"pretrain": _pretrain, "sft": _sft, "reward": _reward, "rl": _rl}
    config: PartConfig = job.config
    tokenizer = load_tokenizer(job.folder("model"))
    model = read_model_facts(job.folder("model"))
    _check_length(job, model)
    sources = [read_rows(readable(s), max_samples=s.max_samples, sample_by=s.sample_by) for s in config.sources]
    collection = Collection(sources, task, config.heldout, config.split_by)
    report = builders[task](job, Chat(tokenizer), collection, model)
    counts = asdict(collection.counts)
    report = {**counts, "dropped": [*counts["dropped"], *report.pop("rejected")], **report}
    (job.out / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for dropped in report["dropped"]:
        say(job.name, f"{dropped['count']} rows dropped: {dropped['reason']} (first: {dropped['first']})")
    say(job.name, f"{report['rows']} rows → {report['train_rows']} train, {report['heldout_rows']} held out")
    return Result("dataset", report, tokenizer_identity(tokenizer))


def _pretrain(job: Job[PretrainPart], chat: Chat, collection: Collection, model: ModelFacts) -> dict[str, Any]:
    def tokenise(chunk: Sequence[Document]) -> Sequence[Tokens]:
        return tokenise_documents(chat.tokenizer, chunk)

    splits, report = collect(job, collection, tokenise)
    length = job.config.max_length
    report["truncated"] = 0
    for side, split in splits.items():
        table = split_long(build_table(split.rows, model.vocab_size), length)
        report |= _write(job.out / side, in_rows(table, length if model.can_pack else None), side, length)
    write_jsonl(job.out / "heldout" / "rows.jsonl", splits["heldout"].records)
    return report


def _sft(job: Job[SftPart], chat: Chat, collection: Collection, model: ModelFacts) -> dict[str, Any]:
    config = job.config

    def tokenise(chunk: Sequence[Conversation]) -> Sequence[Tokens | Rejected]:
        return tokenise_conversations(chat, chunk, config.max_length, every_turn=config.assistant_turns == "all")

    splits, report = collect(job, collection, tokenise)
    report["truncated"] = _truncated(splits)
    for side, split in splits.items():
        table = build_table(split.rows, model.vocab_size)
        packed = in_rows(table, config.max_length if config.packing and model.can_pack else None)
        report |= _write(job.out / side, packed, side, config.max_length)
    write_jsonl(job.out / "heldout" / "rows.jsonl", splits["heldout"].records)
    return report


def _reward(job: Job[RewardPart], chat: Chat, collection: Collection, model: ModelFacts) -> dict[str, Any]:
    config = job.config

    def tokenise(chunk: Sequence[Preference]) -> Sequence[Pair | Rejected]:
        pairs = tokenise_preferences(chat, chunk, config.max_length)
        if not config.equal_length:
            return pairs
        unequal = Rejected("the answers differ in their number of tokens")
        return [unequal if isinstance(p, Pair) and len(p.chosen.ids) != len(p.rejected.ids) else p for p in pairs]

    splits, report = collect(job, collection, tokenise)
    report["truncated"] = sum(pair.chosen.truncated for split in splits.values() for pair in split.rows)
    for side, split in splits.items():
        for name in ("chosen", "rejected"):
            table = build_table([getattr(pair, name) for pair in split.rows], model.vocab_size)
            report |= _write(job.out / side / name, table, side, config.max_length)
        if any(pair.margin is not None for pair in split.rows):
            margins = [pair.margin or 0.0 for pair in split.rows]
            np.save(job.out / side / "margin.npy", np.asarray(margins, np.float32))
    write_jsonl(job.out / "heldout" / "rows.jsonl", splits["heldout"].records)
    return report


def _rl(job: Job[RlPart], chat: Chat, collection: Collection, model: ModelFacts) -> dict[str, Any]:
    def tokenise(chunk: Sequence[Prompt]) -> Sequence[Tokens | Rejected]:
        return tokenise_prompts(chat, chunk, job.config.max_prompt_length)

    splits, report = collect(job, collection, tokenise, keep_train=True)
    report["truncated"] = _truncated(splits)
    for side, split in splits.items():
        report |= _write(job.out / side, build_table(split.rows, model.vocab_size), side, job.config.max_prompt_length)
        write_jsonl(job.out / side / "rows.jsonl", split.records)
    return report


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


def _check_length(job: Job[Any], model: ModelFacts) -> None:
    name = "max_prompt_length" if isinstance(job.config, RlPart) else "max_length"
    length = getattr(job.config, name)
    if model.max_positions is not None and length > model.max_positions:
        raise UserError(
            f"is {length}, the model has {model.max_positions} positions",
            where=f"{job.plan.spec.section}.{name}",
            hint="lower it",
        )
    if not model.can_pack and not isinstance(job.config, (RlPart, RewardPart)):
        say(job.name, "this model's attention would cross the borders of packed sequences: one sequence a row")
