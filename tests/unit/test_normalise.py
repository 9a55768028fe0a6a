"""Every form in which a row may come is recognised, for each task."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from components.data.normalise import normalise
from components.data.records import Document, Preference, Prompt, Record, Task
from components.data.row import Row
from tests.support.turns import FOUR_TURNS, HUMAN, SYSTEM, USER, assistant, chat, gpt, says, system, user

ACCEPTED: list[tuple[Task, Any, Record]] = [
    ("pretrain", " kept to\nthe letter\n", Document(" kept to\nthe letter\n")),
    ("pretrain", {"text": "t", "title": "x", "n": 1}, Document("t", {"title": "x", "n": 1})),
    ("pretrain", {"content": "c"}, Document("c")),
    ("pretrain", {"text": None, "content": "c"}, Document("c", {"text": None})),
    ("pretrain", {"text": "t", "content": "c"}, Document("t", {"content": "c"})),
    # sft: alpaca
    ("sft", {"instruction": "Hi", "output": "Hello"}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"instruction": "Hi", "input": "", "output": "Hello"}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"instruction": "Add", "input": "1, 2", "output": "3"}, chat(user("Add\n1, 2"), assistant("3"))),
    ("sft", {"instruction": "", "input": "1 + 2", "output": "3"}, chat(user("1 + 2"), assistant("3"))),
    ("sft", {"instruction": "Add", "context": "1, 2", "response": "3"}, chat(user("Add\n1, 2"), assistant("3"))),
    (
        "sft",
        {
            "instruction": "Bye",
            "output": "See you",
            "history": [["Hi", "Hello"]],
            "system": "Be kind.",
            "id": 7,
            "text": "rendered",
        },
        chat(system("Be kind."), *FOUR_TURNS, id=7, text="rendered"),
    ),
    # sft: ShareGPT
    ("sft", {"conversations": [HUMAN, gpt("Hello")]}, chat(user("Hi"), assistant("Hello"))),
    (
        "sft",
        {
            "conversations": [
                HUMAN,
                gpt("Hello"),
                {"from": "user", "value": "Bye"},
                {"from": "chatgpt", "value": "See you"},
            ]
        },
        chat(*FOUR_TURNS),
    ),
    (
        "sft",
        {"system_prompt": "Be kind.", "conversations": [HUMAN, gpt("Hello")], "tools": None},
        chat(system("Be kind."), user("Hi"), assistant("Hello"), tools=None),
    ),
    (
        "sft",
        {"conversations": [{"from": "system", "value": "Be kind."}, HUMAN, gpt("Hello")]},
        chat(system("Be kind."), user("Hi"), assistant("Hello")),
    ),
    # sft: messages
    ("sft", {"messages": [USER, says("Hello")]}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"conversations": [USER, says("Hello")]}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"messages": [HUMAN, gpt("Hello")]}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"messages": [SYSTEM, USER, says("Hello")]}, chat(system("Be kind."), user("Hi"), assistant("Hello"))),
    (
        "sft",
        {"system": "Be kind.", "messages": [SYSTEM, USER, says("Hello")]},
        chat(system("Be kind."), user("Hi"), assistant("Hello")),
    ),
    (
        "sft",
        {"messages": [{"role": "system", "content": " "}, USER, says("Hello")], "system": ""},
        chat(user("Hi"), assistant("Hello")),
    ),
    (
        "sft",
        {"messages": [{"role": None, "from": "Human", "content": None, "value": "Hi"}, says("Hello")]},
        chat(user("Hi"), assistant("Hello")),
    ),
    (
        "sft",
        {"messages": [USER, {**says("Hello"), "tool_calls": None}], "prompt": "Hi"},
        chat(user("Hi"), assistant("Hello"), prompt="Hi"),
    ),
    # sft: question and answer by their usual names
    ("sft", {"prompt": "Hi", "response": "Hello"}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"prompt": "Hi", "completion": "Hello"}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"question": "Hi", "answer": "Hello"}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"query": "Hi", "response": "Hello"}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"question": "Hi", "response": "Hello"}, chat(user("Hi"), assistant("Hello"))),
    ("sft", {"prompt": [USER], "completion": [says("Hello")]}, chat(user("Hi"), assistant("Hello"))),
    (
        "sft",
        {"prompt": [SYSTEM, USER, says("Hello"), {"role": "user", "content": "Bye"}], "response": "See you"},
        chat(system("Be kind."), *FOUR_TURNS),
    ),
    (
        "sft",
        {"system_prompt": "Be kind.", "question": "Hi", "response": "Hello"},
        chat(system("Be kind."), user("Hi"), assistant("Hello")),
    ),
    (
        "sft",
        {"messages": None, "instruction": "Hi", "input": None, "output": "Hello"},
        chat(user("Hi"), assistant("Hello"), messages=None, input=None),
    ),
    ("sft", {"prompt": " Hi\n", "completion": "\n\tif x:\n\t\ty \n"}, chat(user("Hi"), assistant("if x:\n\t\ty"))),
    # reward
    ("reward", {"prompt": "Hi", "chosen": "a", "rejected": "b"}, Preference((user("Hi"),), "a", "b")),
    (
        "reward",
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": 2, "id": "x"},
        Preference((user("Hi"),), "a", "b", 2.0, {"id": "x"}),
    ),
    (
        "reward",
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": " 0.5"},
        Preference((user("Hi"),), "a", "b", 0.5),
    ),
    ("reward", {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": ""}, Preference((user("Hi"),), "a", "b")),
    (
        "reward",
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": float("nan")},
        Preference((user("Hi"),), "a", "b"),
    ),
    (
        "reward",
        {"prompt": [SYSTEM, USER], "chosen": [says("a")], "rejected": [says("b")]},
        Preference((system("Be kind."), user("Hi")), "a", "b"),
    ),
    ("reward", {"prompt": [USER], "chosen": "a", "rejected": "b"}, Preference((user("Hi"),), "a", "b")),
    (
        "reward",
        {"prompt": "Hi", "chosen": [USER, says("a")], "rejected": [USER, says("b")], "messages": [USER, says("a")]},
        Preference((user("Hi"),), "a", "b", columns={"messages": [USER, says("a")]}),
    ),
    (
        "reward",
        {"prompt": "Hi", "chosen": [SYSTEM, USER, says("a")], "rejected": [SYSTEM, USER, says("b")]},
        Preference((system("Be kind."), user("Hi")), "a", "b"),
    ),
    (
        "reward",
        {"chosen": [SYSTEM, USER, says("a")], "rejected": [SYSTEM, USER, says("b")]},
        Preference((system("Be kind."), user("Hi")), "a", "b"),
    ),
    (
        "reward",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: a",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: b",
        },
        Preference(FOUR_TURNS[:3], "a", "b"),
    ),
    (
        "reward",
        {"instruction": "Add", "input": "1, 2", "chosen": "3", "rejected": "4"},
        Preference((user("Add\n1, 2"),), "3", "4"),
    ),
    ("reward", {"conversations": [HUMAN], "chosen": "a", "rejected": "b"}, Preference((user("Hi"),), "a", "b")),
    (
        "reward",
        {"conversations": [HUMAN], "chosen": gpt("a"), "rejected": gpt("b"), "system": "Be kind."},
        Preference((system("Be kind."), user("Hi")), "a", "b"),
    ),
    (
        "reward",
        {"question": "Hi", "response_chosen": "a", "response_rejected": "b"},
        Preference((user("Hi"),), "a", "b"),
    ),
    # rl
    ("rl", "Hi", Prompt((user("Hi"),))),
    ("rl", {"text": "Hi", "id": 1}, Prompt((user("Hi"),), {"id": 1})),
    ("rl", {"prompt": "Hi"}, Prompt((user("Hi"),))),
    (
        "rl",
        {"prompt": [SYSTEM, USER], "answer": 42},
        Prompt((system("Be kind."), user("Hi")), {"answer": 42, "reference": 42}),
    ),
    ("rl", {"question": "Hi", "answer": "a"}, Prompt((user("Hi"),), {"answer": "a", "reference": "a"})),
    (
        "rl",
        {"instruction": "Add", "input": "1, 2", "output": "3"},
        Prompt((user("Add\n1, 2"),), {"output": "3", "reference": "3"}),
    ),
    (
        "rl",
        {"messages": [USER, says("Hello"), {"role": "user", "content": "Bye"}, says("See you")]},
        Prompt(FOUR_TURNS[:3], {"reference": "See you"}),
    ),
    (
        "rl",
        {"conversations": [HUMAN, gpt("a")], "reference": "gold"},
        Prompt((user("Hi"),), {"reference": "gold"}),
    ),
    ("rl", {"conversations": [HUMAN], "system_prompt": "Be kind."}, Prompt((system("Be kind."), user("Hi")))),
    ("rl", {"prompt": "Hi", "chosen": "a", "rejected": "b"}, Prompt((user("Hi"),), {"chosen": "a", "rejected": "b"})),
]


@pytest.mark.parametrize(("task", "value", "record"), ACCEPTED)
def test_forms_are_recognised(task: Task, value: Any, record: Record) -> None:
    assert normalise(task, Row("here", value)) == record


def test_other_columns_become_plain_json() -> None:
    values = {"n": float("inf"), "when": Decimal("1.5"), "pair": (1, {"b": True, "x": float("nan")})}
    record = normalise("pretrain", Row("here", {"text": "t", **values}))
    assert record == Document("t", {"n": None, "when": "1.5", "pair": [1, {"b": True, "x": None}]})
