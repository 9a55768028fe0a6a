"""The columns by which the forms of rows are known, and the error for a row that has none of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from components.common.errors import UserError
from components.data.records import Task

# Where a row has several columns of a group, the first counts and the others stay columns.
TEXTS = ("text", "content")
TURNS = ("messages", "conversations")
QUESTIONS = ("instruction", "prompt", "question", "query")
INPUTS = ("input", "context")  # belong to an instruction
ANSWERS = ("output", "response", "completion", "answer")
SYSTEMS = ("system", "system_prompt")
MARGIN, HISTORY = ("margin",), ("history",)
PAIRS = (("chosen", "rejected"), ("response_chosen", "response_rejected"))

ASKING = (*QUESTIONS, *TURNS)
PROMPTS = (*ASKING, "text")

_FORMS: Mapping[Task, str] = {
    "pretrain": "text",
    "sft": "messages | conversations | instruction, [input,] output | prompt, completion | question, answer"
    " | query, response",
    "reward": "prompt, chosen, rejected | chosen, rejected (conversations) | conversations, chosen, rejected"
    " | instruction, [input,] chosen, rejected | question, response_chosen, response_rejected",
    "rl": "prompt | messages | conversations | instruction, [input] | question | query | text",
}
_KNOWN: Mapping[Task, tuple[str, ...]] = {
    "pretrain": TEXTS,
    "sft": (*TURNS, *QUESTIONS, *INPUTS, *ANSWERS, *SYSTEMS),
    "reward": (*TURNS, *QUESTIONS, *INPUTS, *SYSTEMS, *PAIRS[0], *PAIRS[1]),
    "rl": (*TURNS, *QUESTIONS, *INPUTS, *SYSTEMS, "text"),
}
_SHOWN_COLUMNS = 12


def no_form(task: Task, where: str, columns: Mapping[str, Any]) -> UserError:
    """The error for a row whose columns are no form of a task's data: what it has, what was meant, what is accepted."""
    if task == "pretrain" and any(name in columns for name in (*TURNS, *QUESTIONS, "chosen")):
        hint = "use it for sft, reward or rl, or give a column text"
        return UserError("a conversation, and pretrain reads plain text", where=where, hint=hint)
    shown = [name[:40].encode(errors="replace").decode() for name in list(columns)[:_SHOWN_COLUMNS]]
    found = f"columns {', '.join(shown)}{' …' if len(columns) > len(shown) else ''}" if columns else "no columns"
    guess = next(filter(None, (_guess(name, task) for name in shown)), "")
    return UserError(f"{found}: no form of {task} data", where=where, hint=f"{guess}forms: {_FORMS[task]}")


def _guess(name: str, task: Task) -> str:
    """What a column that looks like a slip of the pen was meant to be; empty where nothing is near."""
    if name in _KNOWN[task]:
        return ""
    close = difflib.get_close_matches(name.strip().lower(), _KNOWN[task], n=1, cutoff=0.75)
    return f"did you mean {close[0]} with {name}? " if close else ""
