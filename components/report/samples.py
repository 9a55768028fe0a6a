"""Sample answers as the page shows them: turns without the template's tokens, right answers marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from components.report.collect import Sample

# Tokens of the chat templates in use: <|im_end|>, <s>, <end_of_turn>, [INST].
_SPECIAL = re.compile(r"(<\|[^|<>\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\])")
_ROLES = ("system", "user", "assistant", "model")


@dataclass(frozen=True)
class Piece:
    """A stretch of text, with the role that says it, or a token of the template (`is_special`)."""

    text: str
    role: str = ""
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
        continued: The answers continue a text, of which no continuation is the right one; its tokens are shown.
    """
    split = raw if continued else turns

    def answer(text: str, reference: str) -> Answer:
        return Answer(split(text), not continued and bool(reference) and text.strip() == reference.strip())

    rows = []
    for sample in samples:
        prompt, reference, after = (str(sample.get(name, "")) for name in ("prompt", "reference", "answer"))
        before = answer(str(sample["before"]), reference) if "before" in sample else None
        rows.append(AnswerRow(split(prompt), split(reference), before, answer(after, reference)))
    return rows


def pair_rows(samples: Sequence[Sample]) -> list[PairRow]:
    """Preference pairs; what both answers begin with is their prompt."""
    rows = []
    for sample in samples:
        chosen, rejected = str(sample["chosen"]), str(sample["rejected"])
        start = _prompt_length(chosen, rejected)
        scores = float(sample["score_chosen"]), float(sample["score_rejected"])
        rows.append(
            PairRow(
                turns(chosen[:start]),
                turns(chosen[start:]),
                turns(rejected[start:]),
                str(sample["score_chosen"]),
                str(sample["score_rejected"]),
                scores[0] > scores[1],
            )
        )
    return rows


def turns(text: str) -> tuple[Piece, ...]:
    """A conversation's turns without the template's tokens; a single turn of the user needs no name."""
    found: list[Piece] = []
    role = ""
    for index, part in enumerate(_SPECIAL.split(text)[::2]):
        first, _, rest = part.strip().partition("\n")
        if index and first.strip().lower() in _ROLES:  # templates name the role right after a token
            role, part = first.strip().lower(), rest
        if part.strip():
            found.append(Piece(part.strip(), role))
            role = ""
    return (Piece(found[0].text),) if len(found) == 1 and found[0].role == "user" else tuple(found)


def raw(text: str) -> tuple[Piece, ...]:
    """The text as it is, its special tokens told from the rest."""
    return tuple(Piece(part, is_special=index % 2 == 1) for index, part in enumerate(_SPECIAL.split(text)) if part)


def _prompt_length(chosen: str, rejected: str) -> int:
    """Length of the common beginning, cut back to where the last turn begins."""
    common = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected))
    )
    ends = [match.end() for match in _SPECIAL.finditer(chosen, 0, common)]
    return max([*ends, chosen.rfind("\n", 0, common) + 1])
