from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.artifacts import canonical_json
from components.common.errors import UserError
from components.data.dedup import fingerprint
from components.data.normalise import Dropped, normalise
from components.data.records import TASKS, Conversation, Document, Message, Preference, Prompt, Record, Task
from components.data.row import Row


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def chat(*turns: Message, **columns: Any) -> Conversation:
    return Conversation(turns, columns)


HUMAN = {"from": "human", "value": "Hi"}
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be kind."}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


FOUR_TURNS = (user("Hi"), assistant("Hello"), user("Bye"), assistant("See you"))

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


def test_other_columns_become_plain_json() -> None:
    values = {"n": float("inf"), "when": Decimal("1.5"), "pair": (1, {"b": True, "x": float("nan")})}
    record = normalise("pretrain", Row("here", {"text": "t", **values}))
    assert record == Document("t", {"n": None, "when": "1.5", "pair": [1, {"b": True, "x": None}]})


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


COLUMNS = st.sampled_from(
    [
        *("text", "content", "messages", "conversations", "system", "history", "margin", "reference", "id"),
        *("instruction", "input", "output", "prompt", "completion", "question", "answer"),
        *("chosen", "rejected", "response_chosen", "response_rejected"),
    ]
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", "Hi", "\n\nHuman: Hi\n\nAssistant: a"]), st.text(max_size=5), st.just("\ud800")
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", "x"])
TURN = st.one_of(
    st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), st.fixed_dictionaries({"from": ROLES, "value": SCALARS})
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
VALUE = st.one_of(TEXTS, st.lists(TURN, max_size=4), TURN, ANYTHING)
ROWS = st.one_of(ANYTHING, st.dictionaries(COLUMNS, VALUE, max_size=6), st.dictionaries(st.text(), VALUE, max_size=3))


def turns_of(record: Record) -> list[Message]:
    match record:
        case Document():
            return []
        case Preference():
            return [*record.prompt, assistant(record.chosen)]
        case _:
            return list(record.messages)


def normalise_or_error(task: Task, value: Any) -> Record | Dropped | None:
    try:
        return normalise(task, Row("here", value))
    except UserError as error:
        str(error).encode()  # what cannot be encoded cannot be printed
        return None


@pytest.mark.parametrize("task", TASKS)
@settings(deadline=None)
@given(value=ROWS)
def test_any_json_value_gives_a_sound_record_a_reason_or_a_user_error(task: Task, value: Any) -> None:
    record = normalise_or_error(task, value)
    if record is None or isinstance(record, Dropped):
        return
    canonical_json(dict(record.columns))
    assert len(fingerprint(record)) == 16
    turns = turns_of(record)
    assert all(turn.content == turn.content.strip() != "" for turn in turns)
    roles = [turn.role for turn in turns if turn.role != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)
    assert len(roles) >= len(turns) - 1
    assert len(roles) % 2 == (1 if task == "rl" else 0)
