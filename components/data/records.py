"""The one normal form that every source row is brought into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from components.common.chat import Message, Role

__all__ = ["TASKS", "Conversation", "Document", "Message", "Preference", "Prompt", "Record", "Role", "Task"]

Task = Literal["pretrain", "sft", "reward", "rl"]
TASKS: tuple[Task, ...] = ("pretrain", "sft", "reward", "rl")


@dataclass(frozen=True)
class Document:
    """Text for continued pre-training."""

    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    """Turns for fine-tuning; the last one is the assistant's."""

    messages: tuple[Message, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, for reward and dpo; `margin` is the least wanted distance of their scores."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """What the policy answers in RL; `columns` reach the reward functions by name, as in TRL."""

    messages: tuple[Message, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)


Record = Document | Conversation | Preference | Prompt
