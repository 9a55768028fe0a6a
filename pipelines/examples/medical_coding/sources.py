"""Writes the example's data: documents, questions, preference pairs and prompts, all from the classification."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from components.common.config import Config, validate
from components.common.errors import UserError
from pipelines.examples.medical_coding.classification import Entry, read_entries
from pipelines.examples.medical_coding.questions import KINDS, Kind, line, record

# Fine-tuning teaches the first four kinds well and shows only a little of the others: on those the model is then right
# sometimes, so that there is something left for the reward model and reinforcement learning to do.
_SFT_ROWS = {"chapter": 1000, "region": 1000, "injury": 1000, "trimester": 800}
_SFT_ROWS |= {"side": 500, "encounter": 200, "healing": 160, "fracture": 160}
_JUDGED = ("side", "encounter", "healing", "fracture")


class SourceOptions(Config):
    """Sizes of the example, and which part of the classification goes where."""

    base_chapters: tuple[int, ...] = Field((19,), description="chapters that a base made from scratch knows")
    base_documents: int = Field(40000, ge=1)
    pretrain_chapters: tuple[int, ...] = Field((7, 13, 15, 20), description="chapters that pre-training adds")
    pretrain_documents: int = Field(5000, ge=1, description="documents of these and of the base's chapters together")
    replay_share: float = Field(0.25, ge=0, lt=1, description="share of the base's chapters, so that they are kept")
    record_share: float = Field(0.75, ge=0, le=1, description="documents that are table rows; the rest are plain lines")
    with_text: bool = Field(False, description="questions give a code's text, so that they are answered by reading")
    sft_rows: dict[str, int] = Field(_SFT_ROWS, description="questions of each kind for fine-tuning")
    reward_rows: dict[str, int] = Field(dict.fromkeys(_JUDGED, 2000), description="preference pairs of each kind")
    rl_rows: dict[str, int] = Field(dict.fromkeys(_JUDGED, 1200), description="prompts of each kind for RL")

    @field_validator("sft_rows", "reward_rows", "rl_rows")
    @classmethod
    def _known(cls, rows: dict[str, int], info: Any) -> dict[str, int]:
        known = [name for name, kind in KINDS.items() if kind.values or info.field_name != "reward_rows"]
        unknown = [name for name in rows if name not in known]
        if unknown:
            raise ValueError(f"no kind of question: {', '.join(unknown)}; there are {', '.join(known)}")
        return rows


def write_sources(folder: Path, seed: int, options: Mapping[str, Any]) -> None:
    """Writes `base/`, `pretrain/`, `sft/`, `reward/` and `rl/` below a folder.

    Every row carries its `code`, so that codes can be held out (`split_by: code`): a held-out code is then in no
    training row of any stage, nor in the base's documents. Its siblings are: that S52.521A names the right side can be
    told from S52.521D, which is what the questions are about.

    Args:
        folder: Where to write.
        seed: Of what is drawn.
        options: Fields of `SourceOptions`.

    Raises:
        UserError: An option is wrong.
    """
    settings = validate(SourceOptions, dict(options), "data.builder.options", "configuration")
    rng = random.Random(seed)
    chapters = {*settings.base_chapters, *settings.pretrain_chapters}
    entries = [entry for entry in read_entries() if entry.chapter in chapters]
    rng.shuffle(entries)
    base = [entry for entry in entries if entry.chapter in settings.base_chapters]
    added = [entry for entry in entries if entry.chapter in settings.pretrain_chapters]
    replayed = round(settings.pretrain_documents * settings.replay_share)
    pretrain = [*added[: settings.pretrain_documents - replayed], *rng.sample(base, min(replayed, len(base)))]
    _write(folder / "base", _documents(base[: settings.base_documents], settings.record_share, rng))
    _write(folder / "pretrain", _shuffled(_documents(pretrain, settings.record_share, rng), rng))
    _write(folder / "sft", _shuffled(_conversations(entries, settings.sft_rows, rng, settings.with_text), rng))
    _write(folder / "reward", _shuffled(_pairs(entries, settings.reward_rows, rng, settings.with_text), rng))
    _write(folder / "rl", _shuffled(_prompts(entries, settings.rl_rows, rng, settings.with_text), rng))


def _documents(entries: Iterable[Entry], record_share: float, rng: random.Random) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield {"text": record(entry) if rng.random() < record_share else line(entry), "code": entry.code}


def _conversations(
    entries: Sequence[Entry], rows: Mapping[str, int], rng: random.Random, with_text: bool
) -> Iterator[dict[str, Any]]:
    for kind, entry, answer in _draw(entries, rows, rng):
        turns = (("user", kind.ask(entry, with_text=with_text)), ("assistant", answer))
        messages = [{"role": role, "content": content} for role, content in turns]
        yield {"messages": messages, "code": entry.code, "kind": kind.name}


def _prompts(
    entries: Sequence[Entry], rows: Mapping[str, int], rng: random.Random, with_text: bool
) -> Iterator[dict[str, Any]]:
    for kind, entry, answer in _draw(entries, rows, rng):
        yield {"prompt": kind.ask(entry, with_text=with_text), "answer": answer, "code": entry.code, "kind": kind.name}


def _draw(entries: Sequence[Entry], rows: Mapping[str, int], rng: random.Random) -> Iterator[tuple[Kind, Entry, str]]:
    """Draws entries to ask about; where a kind's answers are a closed set, each is right equally often."""
    for name, count in rows.items():
        kind, groups = KINDS[name], _by_answer(entries, name)
        pools = list(groups.values()) if kind.values else [[entry for group in groups.values() for entry in group]]
        for pool in pools:
            for entry in rng.sample(pool, min(-(-count // len(pools)), len(pool))):
                yield kind, entry, str(kind.answer(entry))


def _pairs(
    entries: Sequence[Entry], rows: Mapping[str, int], rng: random.Random, with_text: bool
) -> Iterator[dict[str, Any]]:
    """Sets the right answer against another value of the same kind.

    Of two values each is right as often as the other is. So knowing the values alone wins nothing, and that stays true
    when pairs are left out because one of their values is longer than the other.
    """
    for name, count in rows.items():
        kind, groups = KINDS[name], _by_answer(entries, name)
        contests = list(permutations(groups, 2))
        for right, wrong in contests:
            share = min(-(-count // len(contests)), len(groups[right]), len(groups[wrong]))
            for entry in rng.sample(groups[right], share):
                pair = {"prompt": kind.ask(entry, with_text=with_text), "chosen": right, "rejected": wrong}
                yield pair | {"code": entry.code, "kind": kind.name}


def _by_answer(entries: Sequence[Entry], name: str) -> dict[str, list[Entry]]:
    """The entries that a kind of question can be asked about, by the right answer."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if (answer := KINDS[name].answer(entry)) is not None:
            groups.setdefault(answer, []).append(entry)
    if not groups:
        raise UserError(f"no code of these chapters has a {name}", where="data.builder.options")
    return groups


def _shuffled(rows: Iterable[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Mixes the kinds, so that the first rows stand for all."""
    mixed = list(rows)
    rng.shuffle(mixed)
    return mixed


def _write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
