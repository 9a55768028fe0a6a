"""Records → token ids, many texts at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.chat import Chat, Segment, SpecialTokenInTextError
from components.data.records import Conversation, Document, Preference, Prompt
from components.data.words import MANY_CORES, word_encoder

Ids = NDArray[np.int64]
# What stays of a prompt that must be cut: its head holds the system prompt, its tail the turn's marker.
MIN_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Tokens:
    """One sequence; `trained` marks the tokens that carry a label, None if all do."""

    ids: NDArray[np.int64]
    trained: NDArray[np.bool_] | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Pair:
    """Both answers of a preference, each after the prompt, and the least wanted distance of their scores."""

    chosen: Tokens
    rejected: Tokens
    margin: float | None = None


@dataclass(frozen=True)
class Rejected:
    """A record that cannot be used, and why; the reason is the same text for all records with the same fault."""

    reason: str


def encode(tokenizer: Any, texts: Sequence[str], *, special: bool = False) -> list[Ids]:
    """Encodes texts, in one call of the backend on all of many cores, else word by word.

    Args:
        tokenizer: A fast tokenizer.
        texts: What to encode.
        special: Add what the tokenizer's post-processor adds (a BOS token, for llama).
    """
    backend = tokenizer.backend_tokenizer
    words = word_encoder(backend) if len(os.sched_getaffinity(0)) < MANY_CORES else None
    if words is not None:
        return [words.encode(text, special=special) for text in texts]
    batch = backend.encode_batch_fast(list(texts), add_special_tokens=special)
    return [np.asarray(encoding.ids, np.int64) for encoding in batch]


def tokenise_documents(tokenizer: Any, documents: Sequence[Document]) -> list[Tokens]:
    """Encodes documents, each ended by the EOS token.

    The text of a special token inside a document is encoded as the plain text it is.
    """
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    try:
        encoded = encode(tokenizer, [document.text for document in documents], special=True)
    finally:
        backend.encode_special_tokens = False
    eos = tokenizer.eos_token_id
    return [Tokens(ids if len(ids) and ids[-1] == eos else np.append(ids, eos)) for ids in encoded]


def tokenise_conversations(
    chat: Chat, conversations: Sequence[Conversation], max_length: int, *, every_turn: bool = True
) -> list[Tokens | Rejected]:
    """Encodes conversations; labels are the assistant's turns, each with its end-of-turn token.

    One that is too long loses its oldest exchanges, but not its system prompt, then the middle of its prompt; an answer
    is never cut, because a model that has seen answers without an end does not stop.
    """
    split = [_segments(chat, conversation, every_turn) for conversation in conversations]
    encoded = _encode_segments(chat, [item for item in split if not isinstance(item, Rejected)])
    rows: list[Tokens | Rejected] = []
    for conversation, item in zip(conversations, split, strict=True):
        if isinstance(item, Rejected):
            rows.append(item)
            continue
        parts = next(encoded)
        shorter = _without_oldest_exchange(conversation)
        if sum(map(len, parts)) > max_length and shorter is not None:
            (row,) = tokenise_conversations(chat, [shorter], max_length, every_turn=every_turn)
            rows.append(replace(row, truncated=True) if isinstance(row, Tokens) else row)
        else:
            rows.append(_fit(parts, [segment.trained for segment in item], max_length))
    return rows


def tokenise_preferences(chat: Chat, preferences: Sequence[Preference], max_length: int) -> list[Pair | Rejected]:
    """Encodes pairs: the same prompt, each answer with its end-of-turn token."""
    split: list[list[Segment] | Rejected] = []
    for pair in preferences:
        try:
            prompt = Segment(chat.prompt(pair.prompt), False)
            split.append([prompt, chat.answer(pair.prompt, pair.chosen), chat.answer(pair.prompt, pair.rejected)])
        except SpecialTokenInTextError as error:
            split.append(_special(error))
    encoded = _encode_segments(chat, [item for item in split if not isinstance(item, Rejected)])
    return [
        item if isinstance(item, Rejected) else _fit_pair(next(encoded), max_length, pair.margin)
        for item, pair in zip(split, preferences, strict=True)
    ]


def tokenise_prompts(chat: Chat, prompts: Sequence[Prompt], max_prompt_length: int) -> list[Tokens | Rejected]:
    """Encodes prompts up to the point where the model answers; a long one loses its middle."""
    split: list[list[Segment] | Rejected] = []
    for prompt in prompts:
        try:
            split.append([Segment(chat.prompt(prompt.messages), False)])
        except SpecialTokenInTextError as error:
            split.append(_special(error))
    encoded = _encode_segments(chat, [item for item in split if not isinstance(item, Rejected)])
    results: list[Tokens | Rejected] = []
    for item in split:
        if isinstance(item, Rejected):
            results.append(item)
            continue
        (ids,) = next(encoded)
        kept = _cut_middle(ids, max_prompt_length)
        results.append(Tokens(kept, None, len(kept) < len(ids)))
    return results


def _segments(chat: Chat, conversation: Conversation, every_turn: bool) -> list[Segment] | Rejected:
    try:
        return chat.segments(conversation.messages, every_turn=every_turn)
    except SpecialTokenInTextError as error:
        return _special(error)


def _encode_segments(chat: Chat, split: Sequence[Sequence[Segment]]) -> Any:
    """Encodes every segment on its own; yields one list of id lists a row."""
    flat = iter(encode(chat.tokenizer, [segment.text for segments in split for segment in segments]))
    return iter([[next(flat) for _ in segments] for segments in split])


def _without_oldest_exchange(conversation: Conversation) -> Conversation | None:
    """The conversation without its first turns up to an answer; None if there is but one answer."""
    messages = conversation.messages
    start = next((i for i, message in enumerate(messages) if message.role != "system"), 0)
    end = next(i for i, message in enumerate(messages) if message.role == "assistant") + 1
    if end == len(messages):
        return None
    return replace(conversation, messages=(*messages[:start], *messages[end:]))


def _fit(parts: list[Ids], trained: list[bool], max_length: int) -> Tokens | Rejected:
    """Joins the segments of a conversation; if they are too long, the first one loses its middle."""
    total = sum(map(len, parts))
    if total > max_length:
        room = max_length - (total - len(parts[0]))
        if room < min(MIN_PROMPT_TOKENS, len(parts[0])):
            return Rejected("the answer alone is longer than max_length")
        parts = [_cut_middle(parts[0], room), *parts[1:]]
    mask = np.repeat(trained, [len(part) for part in parts])
    return Tokens(np.concatenate(parts), mask, total > max_length)


def _fit_pair(parts: list[Ids], max_length: int, margin: float | None) -> Pair | Rejected:
    prompt, chosen, rejected = parts
    room = max_length - max(len(chosen), len(rejected))
    if room < min(MIN_PROMPT_TOKENS, len(prompt)):
        return Rejected("an answer alone is longer than max_length")
    kept = _cut_middle(prompt, room)
    cut = len(kept) < len(prompt)
    first, second = (
        Tokens(np.concatenate([kept, answer]), np.arange(len(kept) + len(answer)) >= len(kept), cut)
        for answer in (chosen, rejected)
    )
    return Pair(first, second, margin)


def _cut_middle(ids: Ids, room: int) -> Ids:
    if len(ids) <= room:
        return ids
    head = room // 2
    return np.concatenate([ids[:head], ids[len(ids) - (room - head) :]])


def _special(error: SpecialTokenInTextError) -> Rejected:
    return Rejected(f"the text holds the special token {error}")
