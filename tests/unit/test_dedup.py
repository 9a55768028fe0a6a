from __future__ import annotations

import os
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.dedup import FingerprintSet, fingerprint
from components.data.normalise import Dropped, normalise
from components.data.records import Conversation, Document, Message, Preference, Prompt, Record
from components.data.row import Row
from tests.support.turns import assistant, user

RECORDS: list[Record] = [
    Document("hello"),
    Document("hello there"),
    Conversation((user("hello"), assistant("there"))),
    Conversation((user("hell"), assistant("othere"))),
    Conversation((Message("system", "hello"), user("hello"), assistant("there"))),
    Conversation((user("hello"), assistant("there"), user("x"), assistant("y"))),
    Prompt((user("hello"),)),
    Prompt((assistant("hello"),)),
    Prompt((user("hello6:there"),)),
    Preference((user("hello"),), "a", "b"),
    Preference((user("hello"),), "b", "a"),
    Preference((user("hello"),), "ab", ""),
    Preference((user("hello"),), "", "ab"),
]


def test_different_texts_have_different_fingerprints() -> None:
    assert len({fingerprint(record) for record in RECORDS}) == len(RECORDS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Document("t\n", {"a": 1}), Document("t", {"a": 2})),
        (Preference((user("q"),), "a", "b", 1.0), Preference((user("q"),), "a", "b", None, {"id": 1})),
        (Prompt((user("q"),), {"reference": "a"}), Prompt((user("q"),))),
    ],
)
def test_columns_and_outer_whitespace_do_not_count(one: Record, other: Record) -> None:
    assert fingerprint(one) == fingerprint(other)


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(min_size=16, max_size=16), st.sampled_from([bytes(16), b"\x01" + bytes(15)]))))
def test_fingerprint_set_is_a_set(values: list[bytes]) -> None:
    ours, theirs = FingerprintSet(), set[bytes]()
    for value in values:
        key = value[:8] if any(value[:8]) else b"\x01" + bytes(7)
        assert ours.add(value) == (key not in theirs)
        theirs.add(key)
    assert len(ours) == len(theirs)


def test_fingerprint_set_grows_and_stays_small() -> None:
    values = [os.urandom(16) for _ in range(20_000)]
    # Equal low bits, so that all of them begin their search at one place.
    values += [bytes([7, 7, 0, i % 256, i // 256]) + os.urandom(11) for i in range(300)]
    ours = FingerprintSet()
    assert all(ours.add(value) for value in values)
    assert not any(ours.add(value) for value in values)
    assert array("Q").itemsize * len(ours._slots) / len(ours) <= 22


def test_what_normalise_makes_equal_is_one_record() -> None:
    alpaca = normalise("sft", Row("a", {"instruction": "Hi", "input": "", "output": "Hello\n"}))
    sharegpt = normalise(
        "sft",
        Row("b", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": 1}),
    )
    assert not isinstance(alpaca, Dropped)
    assert not isinstance(sharegpt, Dropped)
    assert fingerprint(alpaca) == fingerprint(sharegpt)
