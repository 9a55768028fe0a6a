"""A task whose prompts and answers differ in length, as those of real conversations do: stories of the toy world.

A prompt names some animals; the answer has a sentence for each, with what the animal says. How many is drawn from a
geometric distribution, which makes a conversation's length spread about as in instruction data (there the 95th
percentile is 2 to 3 times the mean). In the documents, and in the answers that fine-tuning learns from, every second
animal says something else's word. The reward model learns from pairs what each really says, so that reinforcement
learning has something to put right.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.toy import ANIMALS, NAMES, PLACES, SAYS

SENTENCE = re.compile(r"the (\w+) in the \w+ said (\w+)\.")
MOST = 10  # animals in a story
RIGHT = dict(zip(ANIMALS, SAYS, strict=True))


def write_sources(folder: Path, seed: int, options: Mapping[str, Any]) -> None:
    """Writes base, sft, reward and rl sources."""
    rng = random.Random(seed)
    documents = [_story(_cast(rng), rng, wrong=0.5) for _ in range(3000)]
    _write(folder / "base" / "base.jsonl", [{"text": text} for text in documents])
    _write(folder / "pretrain" / "pretrain.jsonl", [{"text": text} for text in documents[:100]])
    casts = [_cast(rng) for _ in range(2000)]
    told = [{"prompt": _ask(cast), "response": _story(cast, rng, wrong=0.5)} for cast in casts]
    _write(folder / "sft" / "sft.jsonl", told)
    pairs = [
        {"prompt": _ask(c), "chosen": _story(c, rng, wrong=0.0), "rejected": _story(c, rng, wrong=0.7)} for c in casts
    ]
    _write(folder / "reward" / "reward.jsonl", [pair for pair in pairs if pair["chosen"] != pair["rejected"]])
    _write(folder / "rl" / "rl.jsonl", [{"prompt": _ask(cast)} for cast in casts])


def right_sounds(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """Share of the animals that were asked for which say their own word; called as TRL calls reward functions."""
    return [_share(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


def _share(prompt: str, text: str) -> float:
    asked = re.findall(r"the (\w+)", prompt)
    told = SENTENCE.findall(text)
    right = sum(a == animal and RIGHT.get(animal) == says for a, (animal, says) in zip(asked, told, strict=False))
    return right / max(len(asked), len(told))


def _cast(rng: random.Random) -> list[tuple[str, int]]:
    count = 1
    while count < MOST and rng.random() < 0.6:
        count += 1
    return [(rng.choice(NAMES), rng.randrange(len(ANIMALS))) for _ in range(count)]


def _ask(cast: Sequence[tuple[str, int]]) -> str:
    return f"Tell of {', '.join(f'{name} the {ANIMALS[index]}' for name, index in cast)}."


def _story(cast: Sequence[tuple[str, int]], rng: random.Random, wrong: float) -> str:
    says = [rng.choice(SAYS) if rng.random() < wrong else SAYS[index] for _, index in cast]
    return " ".join(
        f"{name} the {ANIMALS[index]} in the {PLACES[index]} said {word}."
        for (name, index), word in zip(cast, says, strict=True)
    )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
