"""Turns: as records have them, and as rows write them."""

from __future__ import annotations

from typing import Any

from components.data.records import Conversation, Message


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def chat(*turns: Message, **columns: Any) -> Conversation:
    return Conversation(turns, columns)


FOUR_TURNS = (user("Hi"), assistant("Hello"), user("Bye"), assistant("See you"))
HUMAN = {"from": "human", "value": "Hi"}
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be kind."}


def says(text: str) -> dict[str, str]:
    """The assistant's turn in a row of messages."""
    return {"role": "assistant", "content": text}


def gpt(text: str) -> dict[str, str]:
    """The assistant's turn in a row of ShareGPT's form."""
    return {"from": "gpt", "value": text}
