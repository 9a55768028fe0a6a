"""Conversations in the spellings that people use → our messages.

Whitespace around a turn is removed: it belongs to the format a row was written in, some chat templates trim it and
others do not, and an answer has to end where its text ends. Within a turn nothing is changed. Empty system turns are
left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from components.data.columns import UnfitError, read_text
from components.data.records import Message, Role

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")
_DIALOGUE_TURN = re.compile(r"\n\n(Human|Assistant):")


def make_turn(role: Role, value: object, name: str) -> Message:
    """A turn of a known speaker.

    Args:
        role: Who speaks.
        value: The text.
        name: Its column, for the reason.

    Raises:
        UnfitError: It is no text.
    """
    return Message(role, read_text(value, name).strip())


def read_turns(value: object, name: str) -> list[Message]:
    """Reads a list of `{role, content}` or `{from, value}` objects, or one such object.

    Args:
        value: What the row has.
        name: Its column, for the reason.

    Raises:
        UnfitError: It is something else, a tool speaks in it, or someone we do not know.
    """
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list):
        raise UnfitError(f"{name} is null" if value is None else f"{name} is not a list of turns")
    turns = [_read_turn(item, name) for item in items]
    return [turn for turn in turns if turn.content or turn.role != "system"]


def _read_turn(item: object, name: str) -> Message:
    if not isinstance(item, Mapping):
        raise UnfitError(f"{name} has a turn that is not an object")
    # A parquet file of rows in both spellings has all four columns, two of them null.
    speaker = item.get("role") or item.get("from")
    content = item.get("content")
    role = _ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if item.get("tool_calls") or item.get("function_call") or (role is None and speaker in _TOOL_ROLES):
        raise UnfitError("tool calls are not supported")
    if role is None:
        raise UnfitError(f"{name} has a turn of an unknown role")
    return make_turn(role, item.get("value") if content is None else content, f"{name}: content")


def is_dialogue(value: object) -> bool:
    r"""Whether a text is a whole conversation, `\n\nHuman: …\n\nAssistant: …`, as in Anthropic's hh-rlhf."""
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def read_dialogue(value: str, name: str) -> list[Message]:
    """Reads a text for which `is_dialogue` holds.

    Raises:
        UnfitError: It is not valid Unicode.
    """
    _, *parts = _DIALOGUE_TURN.split(value)
    speakers = zip(parts[::2], parts[1::2], strict=True)
    return [make_turn("user" if speaker == "Human" else "assistant", text, name) for speaker, text in speakers]


def check_order(turns: Sequence[Message], last: Role) -> None:
    """Checks that user and assistant take turns, after at most one system turn, and that each says something.

    Args:
        turns: The conversation.
        last: Who has to speak last.

    Raises:
        UnfitError: They do not.
    """
    begin = 1 if turns and turns[0].role == "system" else 0
    if len(turns) == begin:
        raise UnfitError("no turns")
    for position, turn in enumerate(turns[begin:]):
        if turn.role != ("assistant" if position % 2 else "user"):
            raise UnfitError(_disorder(position, turn.role))
        if not turn.content:
            raise UnfitError("empty answer" if position % 2 else "empty prompt")
    if turns[-1].role != last:
        raise UnfitError(f"the last turn is not the {last}'s")


def _disorder(position: int, role: Role) -> str:
    if role == "system":
        return "a system turn that is not the first"
    return "two turns of one speaker in a row" if position else "the first turn is not the user's"
