"""A file's rows → what a model is asked to continue, or to judge, as token ids. No torch.

Rows are read and understood by the data step's own readers and normaliser, and rendered and tokenised as it does: what
was trained on and what is asked here are the same tokens. Unlike there, a row that cannot be used is an error, because
its answer would be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from components.common.chat import Chat, Message, SpecialTokenInTextError
from components.common.errors import UserError
from components.data.columns import Fields, UnfitError, read_text
from components.data.config import Source
from components.data.forms import PAIRS
from components.data.normalise import Dropped, normalise
from components.data.readers import read_rows
from components.data.records import Conversation, Preference, Prompt, Record, Task
from components.data.row import Row
from components.data.sources import readable
from components.data.tokenise import encode

Ids = NDArray[np.int64]
Form = Literal["answer", "answers", "pair"]
Item = TypeVar("Item")

# What the commands write into a row, beside its own columns.
COMPLETION, COMPLETIONS, REFERENCE, SAMPLE = "completion", "completions", "reference", "sample"


@dataclass(frozen=True)
class Request:
    """A prompt to be continued.

    Attributes:
        where: Its row, for messages.
        columns: The row's columns, to be kept.
        prompt: Token ids.
    """

    where: str
    columns: Mapping[str, Any]
    prompt: Ids


@dataclass(frozen=True)
class Judged:
    """Answers to one prompt, to be scored.

    Attributes:
        where: Their row, for messages.
        form: One answer, several, or a chosen and a rejected one.
        columns: The row's columns, to be kept.
        prompt: The turns before the answers.
        answers: Their texts.
        sequences: Token ids of prompt and answer, ended by the end-of-turn token, for each answer.
    """

    where: str
    form: Form
    columns: Mapping[str, Any]
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    sequences: tuple[Ids, ...] = field(default=(), compare=False)


def source_rows(source: str) -> Iterator[Row]:
    """The rows of a file, folder, artifact's file or hub dataset; of a text file, its lines."""
    return read_rows(readable(Source(path=source)), sample_by="line")


def read_requests(rows: Iterable[Row], chat: Chat, *, raw: bool, room: int | None) -> list[Request]:
    """Reads prompts.

    Args:
        rows: Text, or columns of any form of rl or sft data; an answer that comes with the prompt is a reference.
        chat: Renders them.
        raw: Take text as it is, without chat template, and with the special tokens that it holds.
        room: Longest prompt in tokens, None if there is no limit.

    Raises:
        UserError: Naming the row that cannot be used.
    """
    found = [(row, _raw_text(row) if raw else _chat_text(row, chat)) for row in rows]
    encoded = encode(chat.tokenizer, [text for _, text in found], special=raw)
    requests = []
    for (row, _), ids in zip(found, encoded, strict=True):
        if raw and len(ids) > 1 and ids[-1] == chat.tokenizer.eos_token_id:
            ids = ids[:-1]  # some tokenizers end every text, and there would be nothing to continue
        if not len(ids):
            raise UserError("the text has no tokens", where=row.where, hint="mend or remove the row")
        _check_length(len(ids), room, row.where, "the prompt")
        requests.append(Request(row.where, _columns(row), ids))
    return requests


def read_judged(rows: Iterable[Row], chat: Chat, *, room: int | None) -> list[Judged]:
    """Reads answers with their prompts; all rows of a source must have one form.

    Args:
        rows: A prompt with `completion`, with a list `completions`, or with `chosen` and `rejected`; or any form of sft
            data, whose last turn is the answer.
        chat: Renders them.
        room: Longest sequence in tokens, None if there is no limit.

    Raises:
        UserError: Naming the row that cannot be used, or that has another form than the first.
    """
    judged = [_judged(row) for row in rows]
    texts: list[str] = []
    for item in judged:
        if item.form != judged[0].form:
            raise UserError(f"holds {_NAMES[item.form]}, the first row {_NAMES[judged[0].form]}", where=item.where)
        texts += _rendered(item.where, partial(_texts, chat, item))
    encoded = iter(encode(chat.tokenizer, texts))
    return [_with_sequences(item, encoded, room) for item in judged]


def group_by_prompt(judged: Sequence[Judged]) -> list[list[Judged]]:
    """Groups rows that follow each other and answer one prompt, as `rlhf generate --num-generations` writes them."""
    groups: list[list[Judged]] = []
    for item in judged:
        begins = not groups or item.prompt != groups[-1][-1].prompt or item.columns.get(SAMPLE) == 0
        if begins:
            groups.append([])
        groups[-1].append(item)
    return groups


_NAMES: Mapping[Form, str] = {"answer": "one answer", "answers": "a list of answers", "pair": "a pair of answers"}


def _columns(row: Row) -> dict[str, Any]:
    """A row's columns as plain JSON."""
    if isinstance(row.value, str):
        return {"prompt": row.value}
    try:
        return Fields(row.value).others()
    except UnfitError as error:
        raise UserError(str(error), where=row.where, hint="mend or remove the row") from error


def _chat_text(row: Row, chat: Chat) -> str:
    record = _record("rl", row)
    assert isinstance(record, Prompt)
    return _rendered(row.where, partial(chat.prompt, record.messages))


def _raw_text(row: Row) -> str:
    if isinstance(row.value, str):
        return row.value
    fields = Fields(row.value)
    name = fields.find(("text", "prompt"))
    try:
        if name is not None:
            return read_text(fields.take(name), name)
    except UnfitError as error:
        raise UserError(f"{error}: --raw continues text", where=row.where, hint="leave --raw out") from error
    raise UserError("neither a text nor a column text or prompt, which --raw continues", where=row.where)


def _judged(row: Row) -> Judged:
    columns = _columns(row)
    if any(columns.get(one) is not None and columns.get(other) is not None for one, other in PAIRS):
        pair = _record("reward", row)
        assert isinstance(pair, Preference)
        return Judged(row.where, "pair", columns, pair.prompt, (pair.chosen, pair.rejected))
    completions, completion = columns.get(COMPLETIONS), columns.get(COMPLETION)
    if isinstance(completions, list) and completions and all(isinstance(text, str) for text in completions):
        answers = tuple(text.strip() for text in completions)
        return Judged(row.where, "answers", columns, _asking(row, COMPLETIONS), answers)
    if isinstance(completion, str):
        return Judged(row.where, "answer", columns, _asking(row, COMPLETION), (completion.strip(),))
    conversation = _record("sft", row)
    assert isinstance(conversation, Conversation)
    *prompt, answer = conversation.messages
    return Judged(row.where, "answer", columns, tuple(prompt), (answer.content,))


def _asking(row: Row, answer: str) -> tuple[Message, ...]:
    """The turns that a completion answers. It may be empty, unlike an answer to be trained on."""
    assert isinstance(row.value, dict)
    record = _record("rl", Row(row.where, {name: value for name, value in row.value.items() if name != answer}))
    assert isinstance(record, Prompt)
    return record.messages


def _record(task: Task, row: Row) -> Record:
    record = normalise(task, row)
    if isinstance(record, Dropped):
        raise UserError(record.reason, where=row.where, hint="mend or remove the row")
    return record


def _texts(chat: Chat, item: Judged) -> list[str]:
    """The prompt, and each answer with its end-of-turn token, apart, as they are tokenised for training."""
    return [chat.prompt(item.prompt), *(chat.answer(item.prompt, answer).text for answer in item.answers)]


def _with_sequences(item: Judged, encoded: Iterator[Ids], room: int | None) -> Judged:
    prompt = next(encoded)
    sequences = tuple(np.concatenate([prompt, next(encoded)]) for _ in item.answers)
    _check_length(max(map(len, sequences)), room, item.where, "prompt and answer")
    return replace(item, sequences=sequences)


def _rendered(where: str, render: Callable[[], Item]) -> Item:
    try:
        return render()
    except SpecialTokenInTextError as error:
        raise UserError(f"the text holds the special token {error}", where=where, hint="take it out") from error
    except UserError as error:
        raise UserError(error.what, where=where, hint=error.hint) from error


def _check_length(length: int, room: int | None, where: str, what: str) -> None:
    if room is not None and length > room:
        raise UserError(f"{what}: {length} tokens, and there is room for {room}", where=where, hint="shorten the row")
