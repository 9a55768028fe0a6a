"""Writes the example's data: documents, questions, preference pairs and prompts, all from the classification."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from components.common.config import Config, validate
from pipelines.examples.medical_coding.classification import Entry, read_entries
from pipelines.examples.medical_coding.questions import CHAPTERS, FIELD, line, record


class SourceOptions(Config):
    """Sizes of the example, and which part of the classification goes where."""

    base_chapters: tuple[int, ...] = Field((19,), description="chapters that a base made from scratch knows")
    base_documents: int = Field(40000, ge=100)
    pretrain_chapters: tuple[int, ...] = Field((7, 13, 15, 20), description="chapters that pre-training adds")
    pretrain_documents: int = Field(5000, ge=10)
    replay: float = Field(0.25, ge=0, lt=1, description="share of base documents among those of pre-training")
    record_share: float = Field(0.75, ge=0, le=1, description="documents that are table rows; the rest are plain lines")
    sft_rows: dict[str, int] = Field(dict.fromkeys(FIELD, 800), description="questions of each kind for fine-tuning")
    reward_rows: dict[str, int] = Field(
        dict.fromkeys(("side", "encounter", "healing", "fracture", "trimester"), 1600),
        description="preference pairs of each kind",
    )
    rl_rows: dict[str, int] = Field(
        dict.fromkeys(("side", "encounter", "healing", "fracture", "trimester"), 800),
        description="prompts of each kind for reinforcement learning",
    )


def write_sources(folder: Path, seed: int, options: Mapping[str, Any]) -> None:
    """Writes `base/`, `pretrain/`, `sft/`, `reward/` and `rl/` below a folder.

    Every row carries its `code`, so that codes can be held out (`split_by: code`): a held-out code is then in no
    training row of any stage, nor in the base's documents. Its siblings are: that S52.521A names the right side can be
    told from S52.522A, which is what the questions are about.

    Args:
        folder: Where to write.
        seed: Of what is drawn.
        options: Fields of `SourceOptions`.

    Raises:
        UserError: An option is wrong.
    """
    settings = validate(SourceOptions, dict(options), "data.builder.options", "configuration")
    rng = random.Random(seed)
    entries = [entry for entry in read_entries() if entry.chapter in CHAPTERS]
    rng.shuffle(entries)
    base = [entry for entry in entries if entry.chapter in settings.base_chapters]
    other = [entry for entry in entries if entry.chapter in settings.pretrain_chapters]
    replayed = round(settings.pretrain_documents * settings.replay)
    news = _documents(other, settings.pretrain_documents - replayed, settings, rng)
    _write(folder / "base" / "base.jsonl", _documents(base, settings.base_documents, settings, rng))
    _write(folder / "pretrain" / "pretrain.jsonl", [*news, *_documents(base[::-1], replayed, settings, rng)])
    _write(folder / "sft" / "sft.jsonl", (_conversation(*item) for item in _draw(entries, settings.sft_rows, rng)))
    _write(folder / "reward" / "reward.jsonl", _pairs(entries, settings.reward_rows, rng))
    _write(folder / "rl" / "rl.jsonl", (_prompt(*item) for item in _draw(entries, settings.rl_rows, rng)))


def _documents(
    entries: Sequence[Entry], count: int, settings: SourceOptions, rng: random.Random
) -> list[dict[str, str]]:
    return [
        {"text": record(entry) if rng.random() < settings.record_share else line(entry), "code": entry.code}
        for entry in entries[:count]
    ]


def _draw(entries: Iterable[Entry], rows: Mapping[str, int], rng: random.Random) -> list[tuple[Entry, str, str]]:
    """Draws entries for each kind of question, equally many for each answer, as (entry, kind, answer)."""
    drawn = []
    by_answer: dict[str, dict[str, list[Entry]]] = {name: defaultdict(list) for name in rows}
    for entry in entries:
        for name in rows:
            answer = FIELD[name].read(entry)
            if answer is not None:
                by_answer[name][answer].append(entry)
    for name, count in rows.items():
        answers = sorted(by_answer[name].items())
        for place, (answer, found) in enumerate(answers):
            share = count // len(answers) + (place < count % len(answers))
            drawn += [(entry, name, answer) for entry in rng.sample(found, min(share, len(found)))]
    rng.shuffle(drawn)
    return drawn


def _conversation(entry: Entry, kind: str, answer: str) -> dict[str, Any]:
    question, reply = {"role": "user", "content": FIELD[kind].ask(entry)}, {"role": "assistant", "content": answer}
    return {"messages": [question, reply], "code": entry.code, "kind": kind}


def _pairs(entries: Iterable[Entry], rows: Mapping[str, int], rng: random.Random) -> list[dict[str, str]]:
    """The right answer against another value of the same field.

    Right answers are drawn equally often and wrong ones by chance among the others, so each value is chosen about as
    often as it is rejected: knowing the answers alone wins nothing.
    """
    pairs = []
    for entry, kind, answer in _draw(entries, rows, rng):
        wrong = rng.choice([value for value in FIELD[kind].values if value != answer])
        question = FIELD[kind].ask(entry)
        pairs.append({"prompt": question, "chosen": answer, "rejected": wrong, "code": entry.code, "kind": kind})
    return pairs


def _prompt(entry: Entry, kind: str, answer: str) -> dict[str, str]:
    return {"prompt": FIELD[kind].ask(entry), "answer": answer, "code": entry.code, "kind": kind}


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
