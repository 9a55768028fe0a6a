"""Rows in the forms that people have → the one normal form, without configuration.

A row of no known form is a mistake in the choice of data and an error; a row of a known form that cannot be used
(an empty answer, two equal answers …) is dropped with a reason and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from components.common.errors import UserError
from components.data.columns import Fields, UnfitError, read_text
from components.data.forms import (
    ANSWERS,
    ASKING,
    HISTORY,
    INPUTS,
    MARGIN,
    PAIRS,
    PROMPTS,
    QUESTIONS,
    SYSTEMS,
    TEXTS,
    TURNS,
    no_form,
)
from components.data.records import Conversation, Document, Message, Preference, Prompt, Record, Task
from components.data.row import Row
from components.data.turns import check_order, is_dialogue, make_turn, read_dialogue, read_turns


@dataclass(frozen=True)
class Dropped:
    """A row of a known form that cannot be used; equal faults have equal reasons."""

    where: str
    reason: str


def normalise(task: Task, row: Row) -> Record | Dropped:
    """Brings a row into the normal form of a task.

    Forms (groups in order of precedence; null counts as absent):

    - pretrain: `text` or `content`, or plain text. Kept to the letter.
    - sft: `messages` or `conversations` (`role`/`content` or `from`/`value`), or a question (`instruction` [+ `input`
      or `context`, on a new line], `prompt`, `question`, `query`) with an answer (`output`, `response`, `completion`,
      `answer`). Question and answer may be lists of messages; `history` is a list of [question, answer].
    - reward: `chosen` and `rejected` (or `response_chosen`, `response_rejected`), each a text, a turn or turns, with a
      question or turns before them, or whole conversations of which all but the last turn are the prompt, also as
      hh-rlhf's text; `margin` is optional.
    - rl: a question, turns or text. What the assistant said last becomes the column `reference`, unless there is one.

    `system` or `system_prompt` becomes the system turn. Every other column is kept, as plain JSON.

    Args:
        task: What the record is for.
        row: The row as its source has it.

    Returns:
        The task's record, or why there is none.

    Raises:
        UserError: The row's columns are no form of this task's data.
    """
    columns = {"text": row.value} if isinstance(row.value, str) else row.value
    if not isinstance(columns, dict):
        raise UserError(f"a row is an object or a text, not {type(columns).__name__}", where=row.where)
    try:
        record = _TASKS[task](Fields(columns))
        if record is None and None in columns.values():
            # A row that has a form's columns but null in them is unusable, not foreign: this finds the reason.
            record = _TASKS[task](Fields(columns, with_null=True))
    except UnfitError as error:
        return Dropped(row.where, str(error))
    except RecursionError:
        return Dropped(row.where, "nested too deeply")
    if record is None:
        raise no_form(task, row.where, columns)
    return record


def _pretrain(fields: Fields) -> Document | None:
    name = fields.find(TEXTS)
    if name is None:
        return None
    text = read_text(fields.take(name), name)
    if not text.strip():
        raise UnfitError("empty text")
    return Document(text, fields.others())


def _sft(fields: Fields) -> Conversation | None:
    name = fields.find(TURNS)
    if name:
        turns = read_turns(fields.take(name), name)
    else:
        question, answer = fields.find(QUESTIONS), fields.find(ANSWERS)
        if question is None or answer is None:
            return None
        turns = [*_read_question(fields, question), *_read_answer(fields.take(answer), answer)]
    turns = _with_system(fields, turns)
    check_order(turns, "assistant")
    return Conversation(tuple(turns), fields.others())


def _reward(fields: Fields) -> Preference | None:
    names = next((pair for pair in PAIRS if all(fields.find((name,)) for name in pair)), None)
    if names is None:
        return None
    before = _read_asking(fields)
    chosen, rejected = (_read_whole(before, fields.take(name), name) for name in names)
    if chosen[:-1] != rejected[:-1]:
        raise UnfitError("chosen and rejected do not answer the same prompt")
    check_order(chosen, "assistant")
    check_order(rejected, "assistant")
    if chosen[-1] == rejected[-1]:
        raise UnfitError("chosen and rejected are equal")
    prompt = tuple(_with_system(fields, chosen[:-1]))
    margin = _read_margin(fields.take("margin")) if fields.find(MARGIN) else None
    return Preference(prompt, chosen[-1].content, rejected[-1].content, margin, fields.others())


def _rl(fields: Fields) -> Prompt | None:
    name = fields.find(PROMPTS)
    if name is None:
        return None
    turns = _read_asking(fields) if name != "text" else [make_turn("user", fields.take(name), name)]
    turns = _with_system(fields, turns)
    columns = fields.others()
    answer = fields.find(ANSWERS)
    if turns and turns[-1].role == "assistant":
        columns.setdefault("reference", turns.pop().content)
    elif name in QUESTIONS and answer:
        columns.setdefault("reference", columns[answer])
    check_order(turns, "user")
    return Prompt(tuple(turns), columns)


_TASKS: Mapping[Task, Callable[[Fields], Record | None]] = {
    "pretrain": _pretrain,
    "sft": _sft,
    "reward": _reward,
    "rl": _rl,
}


def _read_asking(fields: Fields) -> list[Message]:
    """The turns before the answer, from a question or from turns; empty where there are neither."""
    name = fields.find(ASKING)
    if name is None:
        return []
    return _read_question(fields, name) if name in QUESTIONS else read_turns(fields.take(name), name)


def _read_question(fields: Fields, name: str) -> list[Message]:
    value = fields.take(name)
    if isinstance(value, list):
        return read_turns(value, name)
    turn = make_turn("user", value, name)
    addition = fields.find(INPUTS) if name == "instruction" else None
    if addition:
        parts = (turn.content, read_text(fields.take(addition), addition).strip())
        turn = Message("user", "\n".join(part for part in parts if part))
    history = _read_history(fields.take("history")) if fields.find(HISTORY) else []
    return [*history, turn]


def _read_history(value: object) -> list[Message]:
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise UnfitError("history is not a list of pairs of question and answer")
    return [
        turn
        for question, answer in value
        for turn in (make_turn("user", question, "history"), make_turn("assistant", answer, "history"))
    ]


def _read_answer(value: object, name: str) -> list[Message]:
    return read_turns(value, name) if isinstance(value, (list, dict)) else [make_turn("assistant", value, name)]


def _read_whole(before: list[Message], value: object, name: str) -> list[Message]:
    """Prompt and answer of one side: the answer after what comes before it, or a conversation that holds both."""
    turns = read_dialogue(str(value), name) if not before and is_dialogue(value) else _read_answer(value, name)
    if not turns or turns[0].role == "assistant":
        return [*before, *turns]
    spoken = turns[1:] if turns[0].role == "system" and before and before[0].role != "system" else turns
    if spoken[: len(before)] != before:
        raise UnfitError("chosen and rejected do not begin with the prompt")
    return turns


def _with_system(fields: Fields, turns: list[Message]) -> list[Message]:
    name = fields.find(SYSTEMS)
    system = make_turn("system", fields.take(name), name) if name else None
    if system is None or not system.content:
        return turns
    if turns and turns[0].role == "system":
        if turns[0] != system:
            raise UnfitError("two different system prompts")
        return turns
    return [system, *turns]


def _read_margin(value: object) -> float | None:
    """The margin; NaN and, as in CSV, an empty text say that there is none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UnfitError("margin is not a number")
    try:
        margin = float(value)
    except (ValueError, OverflowError) as error:
        raise UnfitError("margin is not a number") from error
    if math.isinf(margin):
        raise UnfitError("margin is not a finite number")
    return None if math.isnan(margin) else margin
