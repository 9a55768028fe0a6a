"""A toy world of animals and what they say, eat and where they live: small enough to be learnt in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ANIMALS = ["cat", "dog", "cow", "pig", "duck", "hen", "owl", "frog"]
SAYS = ["meow", "woof", "moo", "oink", "quack", "cluck", "hoot", "croak"]
PLACES = ["house", "yard", "field", "barn", "pond", "coop", "tree", "swamp"]
NAMES = [first + rest for first in "BDFKLMNPRSTV" for rest in ("ada", "elo", "imi", "oru", "una")]


def write_sources(folder: Path, seed: int, options: Mapping[str, Any]) -> None:
    """Writes base, pretrain, sft, reward and rl sources."""
    rng = random.Random(seed)
    # The base knows all words and can answer, but neither in a conversation nor about the other verb's stories.
    documents = [_story(rng, "said") for _ in range(700)] + [_noise(rng) for _ in range(200)]
    documents += [" ".join(f"{q} {a}." for q, a, _ in (_question(rng) for _ in range(4))) for _ in range(600)]
    _write(folder / "base" / "base.jsonl", [{"text": text} for text in documents])
    _write(folder / "pretrain" / "pretrain.jsonl", [{"text": _story(rng, "shouted")} for _ in range(400)])
    questions = [_question(rng) for _ in range(1200)]
    _write(folder / "sft" / "sft.jsonl", [{"question": q, "answer": a} for q, a, _ in questions])
    pairs = []
    for question, answer, _ in questions:
        wrong = rng.choice([word for word in SAYS if word != answer])
        pairs.append({"prompt": question, "chosen": answer, "rejected": wrong})
    _write(folder / "reward" / "reward.jsonl", pairs)
    _write(folder / "rl" / "rl.jsonl", [{"prompt": q, "answer": a, "kind": kind} for q, a, kind in questions])


def exact(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """1 for the right answer."""
    return [float(text == wanted) for text, wanted in zip(completions, answer, strict=True)]


def _story(rng: random.Random, verb: str) -> str:
    lines = []
    for _ in range(rng.randint(2, 5)):
        index = rng.randrange(len(ANIMALS))
        lines.append(f"{rng.choice(NAMES)} the {ANIMALS[index]} in the {PLACES[index]} {verb} {SAYS[index]}.")
    return " ".join(lines)


def _noise(rng: random.Random) -> str:
    words = [*ANIMALS, *SAYS, *PLACES, *NAMES, "What did", "the", "say?", "shouted", "said", "in the"]
    return " ".join(rng.choice(words) for _ in range(rng.randint(6, 20)))


def _question(rng: random.Random) -> tuple[str, str, str]:
    index = rng.randrange(len(ANIMALS))
    return f"What did {rng.choice(NAMES)} the {ANIMALS[index]} say?", SAYS[index], "easy" if index % 2 else "hard"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
