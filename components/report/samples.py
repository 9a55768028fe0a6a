"""Sample answers as the page shows them, right answers marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from components.report.collect import Sample

# Tokens of the chat templates in use, which a continued document may hold: <|im_end|>, <s>, <end_of_turn>, [INST].
_SPECIAL = re.compile(r"(<\|[^|<>\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\])")


@dataclass(frozen=True)
class Piece:
    """A stretch of text, or a token of the template (`is_special`)."""

    text: str
    is_special: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer and whether it equals the reference."""

    pieces: tuple[Piece, ...]
    is_right: bool = False


@dataclass(frozen=True)
class AnswerRow:
    """A prompt with the answers before and after; `reference` is what the data say."""

    prompt: tuple[Piece, ...]
    reference: tuple[Piece, ...]
    before: Answer | None
    after: Answer


@dataclass(frozen=True)
class PairRow:
    """A preference pair with its scores."""

    prompt: tuple[Piece, ...]
    chosen: tuple[Piece, ...]
    rejected: tuple[Piece, ...]
    score_chosen: str
    score_rejected: str
    is_right: bool


def answer_rows(samples: Sequence[Sample], *, continued: bool = False) -> list[AnswerRow]:
    """Rows with prompt, reference, answer and, where it was measured, the answer before.

    Args:
        samples: Rows of samples.jsonl.
        continued: The answers continue a text, of which no continuation is the right one.
    """

    def answer(text: str, reference: str) -> Answer:
        return Answer(pieces(text), not continued and bool(reference) and text.strip() == reference.strip())

    rows = []
    for sample in samples:
        prompt, reference, after = (str(sample.get(name, "")) for name in ("prompt", "reference", "answer"))
        before = answer(str(sample["before"]), reference) if "before" in sample else None
        rows.append(AnswerRow(pieces(prompt), pieces(reference), before, answer(after, reference)))
    return rows


def pair_rows(samples: Sequence[Sample]) -> list[PairRow]:
    """Preference pairs with the scores of both answers."""
    return [
        PairRow(
            pieces(str(sample["prompt"])),
            pieces(str(sample["chosen"])),
            pieces(str(sample["rejected"])),
            str(sample["score_chosen"]),
            str(sample["score_rejected"]),
            float(sample["score_chosen"]) > float(sample["score_rejected"]),
        )
        for sample in samples
    ]


def pieces(text: str) -> tuple[Piece, ...]:
    """The text as it is, its special tokens told from the rest."""
    return tuple(Piece(part, index % 2 == 1) for index, part in enumerate(_SPECIAL.split(text)) if part)
