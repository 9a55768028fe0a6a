"""`rlhf score`: a file of answers → the same rows with a reward model's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.common.chat import Chat
from components.common.errors import UserError
from components.common.heldout import PairScores
from components.common.logs import Progress, say
from components.data.model_facts import read_model_facts
from components.data.sources import source_digest
from components.inference.batches import spans
from components.inference.load import RewardModel, enough_memory, load_judge
from components.inference.output import JsonLines, open_output
from components.inference.rows import (
    COMPLETION,
    COMPLETIONS,
    Form,
    Ids,
    Judged,
    group_by_prompt,
    read_judged,
    source_rows,
)
from components.inference.source import find_model, load_source_tokenizer

SCORE, SCORES, SCORE_CHOSEN, SCORE_REJECTED = "score", "scores", "score_chosen", "score_rejected"
WRITTEN = (SCORE, SCORES, SCORE_CHOSEN, SCORE_REJECTED)
DIGITS = 6  # float32 has seven


@dataclass(frozen=True)
class Line:
    """What becomes a line of the output.

    Attributes:
        form: Of its row; None if the best of its answers is to be kept.
        sequences: Token ids to be scored.
        columns: What the line holds beside scores: one choice, or one for each sequence if the best is to be kept.
    """

    form: Form | None
    sequences: tuple[Ids, ...]
    columns: tuple[Mapping[str, Any], ...]

    def scored(self, scores: Sequence[float]) -> dict[str, Any]:
        """The line, with the scores of its sequences."""
        rounded = [round(score, DIGITS) for score in scores]
        if self.form is None:
            best = int(np.argmax(scores))
            return {**self.columns[best], SCORE: rounded[best]}
        if self.form == "pair":
            return {**self.columns[0], SCORE_CHOSEN: rounded[0], SCORE_REJECTED: rounded[1]}
        return {**self.columns[0], **({SCORE: rounded[0]} if self.form == "answer" else {SCORES: rounded})}


def score_file(
    model: str,
    source: str,
    output: Path,
    *,
    base: str | None = None,
    best_of: bool = False,
    batch_tokens: int = 16384,
) -> None:
    """Scores every answer of a source; rows that an earlier start of the same command wrote are kept.

    Args:
        model: Artifact URI or plain folder of a reward model, merged or as an adapter.
        source: Artifact URI, file, folder or hub name of the answers.
        output: JSON lines file.
        base: The model below an adapter, if its manifest does not lead to it.
        best_of: Keep only the best answer to each prompt.
        batch_tokens: Positions in a batch.

    Raises:
        UserError: A row is wrong, or the output is of another command.
        InputError: The model is missing or altered, or does not score as it did when it was trained.
    """
    found = find_model(model, "score", base)
    chat = Chat(load_source_tokenizer(found))
    judged = read_judged(source_rows(source), chat, room=read_model_facts(found.weights).max_positions)
    lines = best_lines(judged) if best_of else plain_lines(judged)
    with open_output(output, {**found.identity, "input": source_digest(source), "best_of": best_of}) as out:
        done = len(out.kept(len(lines), lambda index: lines[index].columns, WRITTEN))
        if done:
            say("score", f"{done} of {len(lines)} rows are in {output} already")
        if done < len(lines):
            _score(load_judge(found, batch_tokens), lines, done, batch_tokens, out)
        say("score", f"{len(lines)} rows: {output}")
        say("score", summary(list(out.rows())))


def plain_lines(judged: Sequence[Judged]) -> list[Line]:
    """A line for each row."""
    return [Line(row.form, row.sequences, (_without(row.columns, WRITTEN),)) for row in judged]


def best_lines(judged: Sequence[Judged]) -> list[Line]:
    """A line for each prompt, with the columns of whichever answer will be best.

    Raises:
        UserError: The rows are pairs.
    """
    if judged[0].form == "pair":
        raise UserError("holds a pair, of which the best is known", where=judged[0].where, hint="leave --best-of out")
    lines = []
    for group in group_by_prompt(judged):
        columns: list[Mapping[str, Any]] = []
        for row in group:
            kept = _without(row.columns, (*WRITTEN, COMPLETIONS))
            columns += [kept] if row.form == "answer" else [{**kept, COMPLETION: text} for text in row.answers]
        lines.append(Line(None, tuple(ids for row in group for ids in row.sequences), tuple(columns)))
    return lines


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the scores of all rows say: of pairs, how often and by how much the chosen answer is ahead."""
    if SCORE_CHOSEN in rows[0]:
        chosen, rejected = (np.asarray([row[name] for row in rows]) for name in (SCORE_CHOSEN, SCORE_REJECTED))
        unknown = np.zeros(len(rows), np.int64)
        pairs = PairScores(chosen, rejected, unknown, unknown)
        return f"accuracy {pairs.accuracy():.4f} margin {pairs.margins.mean():.4f} of {len(rows)} pairs"
    scores = np.concatenate([np.atleast_1d(row.get(SCORE, row.get(SCORES))) for row in rows])
    return f"mean {scores.mean():.4f} of {len(scores)} scores"


def _score(judge: RewardModel, lines: Sequence[Line], done: int, batch_tokens: int, out: JsonLines) -> None:
    """Writes the lines from `done` on."""
    progress = Progress("score", len(lines), done, every=1)
    lengths = [sum(map(len, line.sequences)) for line in lines]
    tokens = 0
    for span in spans(lengths, done, batch_tokens):
        sequences = [ids for i in span for ids in lines[i].sequences]
        with enough_memory():
            scores = judge.score(sequences, batch_tokens)
        each = iter(scores.tolist())
        out.write(lines[i].scored([next(each) for _ in lines[i].sequences]) for i in span)
        tokens += sum(map(len, sequences))
        progress.step(span.stop, {"score": float(scores.mean())}, tokens)


def _without(columns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if name not in names}
