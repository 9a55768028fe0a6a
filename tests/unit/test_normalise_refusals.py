"""A row that cannot be used is dropped with its reason; one of no known form is an error that names the forms."""

from __future__ import annotations

from typing import Any

import pytest

from components.common.errors import UserError
from components.data.normalise import Dropped, normalise
from components.data.records import Task
from components.data.row import Row
from tests.support.turns import HUMAN, SYSTEM, USER, says

SFT_DROPPED = [
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, "tool calls are not supported"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "tool calls are not supported"),
    ({"conversations": [HUMAN, {"from": "function_call", "value": "x"}]}, "tool calls are not supported"),
    ({"messages": [{"role": "bard", "content": "x"}]}, "messages has a turn of an unknown role"),
    ({"messages": [{"content": "x"}]}, "messages has a turn of an unknown role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages has a turn of an unknown role"),
    ({"messages": [USER, "Hello"]}, "messages has a turn that is not an object"),
    ({"messages": [USER, {"role": "assistant"}]}, "messages: content is null"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages: content is not text"),
    ({"messages": "[]"}, "messages is not a list of turns"),
    ({"messages": []}, "no turns"),
    ({"messages": [SYSTEM]}, "no turns"),
    ({"messages": None}, "messages is null"),
    ({"messages": [says("a")]}, "the first turn is not the user's"),
    ({"messages": [USER, SYSTEM, says("a")]}, "a system turn that is not the first"),
    ({"messages": [USER, USER, says("a")]}, "two turns of one speaker in a row"),
    ({"messages": [USER, says("a"), USER]}, "the last turn is not the assistant's"),
    ({"messages": [USER, says(" \n")]}, "empty answer"),
    ({"messages": [SYSTEM, USER, says("a")], "system": "Be rude."}, "two different system prompts"),
    ({"instruction": "Hi", "output": ""}, "empty answer"),
    ({"instruction": " ", "output": "a"}, "empty prompt"),
    ({"instruction": "Hi", "output": None}, "output is null"),
    ({"instruction": "Hi", "output": 3}, "output is not text"),
    ({"instruction": {}, "output": "a"}, "instruction is not text"),
    ({"instruction": "Hi", "input": 3, "output": "a"}, "input is not text"),
    ({"instruction": "Hi", "output": "a", "system": 3}, "system is not text"),
    ({"instruction": "Hi", "output": "a", "history": [["x"]]}, "history is not a list of pairs of question and answer"),
    ({"instruction": "Hi", "output": "a", "history": [["x", None]]}, "history is null"),
    ({"prompt": "Hi", "completion": [USER, says("a")]}, "two turns of one speaker in a row"),
    ({"prompt": "Hi", "completion": "\ud83d"}, "text with half a surrogate pair, which is not valid Unicode"),
    (
        {"prompt": "Hi", "completion": "a", "x": ["\ud83d"]},
        "text with half a surrogate pair, which is not valid Unicode",
    ),
]
OTHERS_DROPPED: list[tuple[Task, Any, str]] = [
    ("pretrain", " \n", "empty text"),
    ("pretrain", {"text": ""}, "empty text"),
    ("pretrain", {"text": None}, "text is null"),
    ("pretrain", {"text": ["a"]}, "text is not text"),
    ("reward", {"prompt": "Hi", "chosen": "a", "rejected": " a\n"}, "chosen and rejected are equal"),
    ("reward", {"prompt": "Hi", "chosen": "a", "rejected": ""}, "empty answer"),
    ("reward", {"prompt": "Hi", "chosen": [], "rejected": "b"}, "chosen and rejected do not answer the same prompt"),
    ("reward", {"prompt": "Hi", "chosen": None, "rejected": "b"}, "chosen is null"),
    ("reward", {"chosen": "a", "rejected": "b"}, "the first turn is not the user's"),
    ("reward", {"prompt": " ", "chosen": "a", "rejected": "b"}, "empty prompt"),
    (
        "reward",
        {"prompt": "Ho", "chosen": [USER, says("a")], "rejected": [USER, says("b")]},
        "chosen and rejected do not begin with the prompt",
    ),
    (
        "reward",
        {"chosen": [USER, says("a")], "rejected": [{"role": "user", "content": "Ho"}, says("b")]},
        "chosen and rejected do not answer the same prompt",
    ),
    ("reward", {"chosen": [USER], "rejected": [USER]}, "the last turn is not the assistant's"),
    ("reward", {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": "much"}, "margin is not a number"),
    ("reward", {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": True}, "margin is not a number"),
    ("reward", {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": 10**400}, "margin is not a number"),
    (
        "reward",
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": float("inf")},
        "margin is not a finite number",
    ),
    ("rl", {"prompt": ""}, "empty prompt"),
    ("rl", {"prompt": None}, "prompt is null"),
    ("rl", {"messages": [USER, says("a"), says("b")]}, "the last turn is not the user's"),
    ("rl", {"messages": [says("a")]}, "no turns"),
]


@pytest.mark.parametrize(("task", "value", "reason"), [*(("sft", *case) for case in SFT_DROPPED), *OTHERS_DROPPED])
def test_unusable_rows_are_dropped_with_a_reason(task: Task, value: Any, reason: str) -> None:
    assert normalise(task, Row("here", value)) == Dropped("here", reason)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_columns_nested_beyond_reason_are_dropped() -> None:
    assert normalise("pretrain", Row("here", {"text": "t", "x": nested(5000)})) == Dropped("here", "nested too deeply")


@pytest.mark.parametrize(
    ("task", "value", "words"),
    [
        (
            "sft",
            {"a": 1, "b": 2},
            ["columns a, b: no form of sft data", "forms: messages | conversations | instruction"],
        ),
        ("sft", {}, ["no columns: no form of sft data"]),
        ("sft", "text", ["columns text: no form of sft data"]),
        ("sft", {"text": "t"}, ["columns text: no form of sft data"]),
        ("sft", {"instruction": "Hi", "ouput": "a"}, ["columns instruction, ouput", "did you mean output with ouput?"]),
        ("sft", {"Instruction": "Hi", "Output": "a"}, ["did you mean instruction with Instruction?"]),
        ("sft", {"INSTRUCTION": "Hi"}, ["did you mean instruction with INSTRUCTION?"]),
        ("sft", {"\ud83d": "Hi"}, ["columns ?: no form of sft data"]),
        ("sft", {"conversation": []}, ["did you mean conversations with conversation?"]),
        ("sft", {"prompt": "Hi", "chosen": "a", "rejected": "b"}, ["columns prompt, chosen, rejected"]),
        ("sft", {f"c{i}": 0 for i in range(99)}, ["columns c0, c1, ", "c10, c11 …: no form"]),
        ("reward", {"prompt": "Hi", "choosen": "a", "rejected": "b"}, ["did you mean chosen with choosen?"]),
        ("reward", "text", ["columns text: no form of reward data", "question, response_chosen, response_rejected"]),
        ("reward", {"response_chosen": "a", "rejected": "b"}, ["columns response_chosen, rejected"]),
        ("rl", {"chosen": "a", "rejected": "b"}, ["no form of rl data"]),
        ("pretrain", {"messages": [USER]}, ["a conversation, and pretrain reads plain text"]),
        ("pretrain", {"instruction": "Hi", "output": "a"}, ["a conversation, and pretrain reads plain text"]),
        ("pretrain", {"txt": "Hi"}, ["columns txt: no form of pretrain data", "did you mean text with txt?"]),
        ("pretrain", [1], ["a row is an object or a text, not list"]),
    ],
)
def test_a_row_of_no_form_is_an_error_that_names_the_forms(task: Task, value: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        normalise(task, Row("data.jsonl line 3", value))
    assert str(caught.value).startswith("data.jsonl line 3: ")
    assert [word for word in words if word not in str(caught.value)] == []
