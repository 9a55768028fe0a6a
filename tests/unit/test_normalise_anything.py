"""Whatever JSON a row is, it becomes a sound record, is dropped, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.errors import UserError
from components.common.manifest import canonical_json
from components.data.dedup import fingerprint
from components.data.normalise import Dropped, normalise
from components.data.records import TASKS, Document, Message, Preference, Record, Task
from components.data.row import Row
from tests.support.turns import assistant

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
