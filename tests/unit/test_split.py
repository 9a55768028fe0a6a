from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.errors import UserError
from components.data.dedup import fingerprint
from components.data.records import Conversation, Document, Preference, Record, Task
from components.data.row import Row
from components.data.split import Collection, Counts, DropCount, Side, in_heldout
from tests.support.turns import assistant, user


def make_rows(values: list[Any]) -> list[Row]:
    return [Row(f"data.jsonl line {number}", value) for number, value in enumerate(values, 1)]


def question_rows(count: int) -> list[Row]:
    return make_rows([{"prompt": f"q{i}", "completion": f"a{i}", "group": i % 40} for i in range(count)])


Collected = tuple[list[tuple[Side, Record]], Counts]


def collect(rows: list[Row], task: Task = "sft", fraction: float = 0.2, split_by: str | None = None) -> Collected:
    collection = Collection([rows], task, fraction, split_by)
    return [(placed.side, placed.record) for placed in collection], collection.counts


def side_of(collected: Collected) -> dict[bytes, Side]:
    return {fingerprint(record): side for side, record in collected[0]}


def prompts_on(collected: Collected, side: Side) -> set[str]:
    return {_first_prompt(record) for where, record in collected[0] if where == side}


def _first_prompt(record: Record) -> str:
    return (record.prompt if isinstance(record, Preference) else record.messages)[0].content  # type: ignore[union-attr]


def test_fingerprint_and_side_never_change() -> None:
    # Written down once: they must be the same on every machine, for every hash seed and in every later version.
    record = Conversation((user("What is the code for measles?"), assistant("B05")))
    assert fingerprint(record).hex() == "91083bbb719fcbd764632a01eee2d1fe"
    assert [i for i in range(100) if in_heldout(Document(f"text {i}"), 0.05)] == [13, 33, 44, 89]


def test_the_share_held_out_is_the_fraction_and_larger_fractions_hold_out_more() -> None:
    records = [Document(f"text {i}") for i in range(20_000)]
    held = {f: {r.text for r in records if in_heldout(r, f)} for f in (0.0, 0.01, 0.1, 0.5, 1.0)}
    assert [round(len(texts) / len(records), 2) for texts in held.values()] == [0.0, 0.01, 0.1, 0.5, 1.0]
    assert held[0.01] < held[0.1] < held[0.5] < held[1.0]


@settings(deadline=None)
@given(order=st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_rows(order: random.Random) -> None:
    rows = question_rows(150)
    again = rows[:]
    order.shuffle(again)
    assert side_of(collect(again)) == side_of(collect(rows))
    assert side_of(collect(again, split_by="group")) == side_of(collect(rows, split_by="group"))


def test_more_rows_leave_the_others_where_they_are() -> None:
    few, many = side_of(collect(question_rows(100))), side_of(collect(question_rows(500)))
    assert few.items() <= many.items()


def test_nothing_is_repeated_or_on_both_sides() -> None:
    rows = question_rows(300)
    once = collect(rows)
    thrice = collect([*rows, *reversed(rows), *rows])
    assert side_of(thrice) == side_of(once)
    assert len(thrice[0]) == 300
    assert thrice[1] == Counts(900, once[1].train, once[1].heldout, 600, ())


def test_all_answers_to_one_prompt_are_on_one_side() -> None:
    rows = make_rows([{"prompt": f"q{i % 50}", "completion": f"a{i}"} for i in range(500)])
    collected = collect(rows)
    assert collected[1].duplicates == 0
    assert prompts_on(collected, "train") & prompts_on(collected, "heldout") == set()
    assert len(prompts_on(collected, "train") | prompts_on(collected, "heldout")) == 50


def test_a_prompt_is_on_the_same_side_in_every_stage() -> None:
    values = [{"prompt": f"q{i}", "completion": "c", "chosen": "c", "rejected": "r", "system": "s"} for i in range(200)]
    held = [prompts_on(collect(make_rows(values), task), "heldout") for task in ("sft", "reward", "rl")]
    assert held[0] == held[1] == held[2]
    assert 0 < len(held[0]) < 200


def test_groups_stay_together() -> None:
    collected, counts = collect(question_rows(1000), split_by="group")
    groups: dict[Side, set[int]] = {"train": set(), "heldout": set()}
    for side, record in collected:
        groups[side].add(record.columns["group"])
    assert groups["train"] & groups["heldout"] == set()
    assert counts.train + counts.heldout == 1000
    assert len(groups["train"] | groups["heldout"]) == 40


@pytest.mark.parametrize("group", [None, "absent"])
def test_a_missing_column_to_split_by_is_an_error(group: str | None) -> None:
    value = {"text": "t", "id": 1} | ({} if group == "absent" else {"group": group})
    with pytest.raises(UserError) as caught:
        list(Collection([make_rows([{"text": "s", "group": 1}, value])], "pretrain", 0.5, "group"))
    assert caught.value.where == "data.jsonl line 2"
    assert caught.value.what == "the row has no column group to split by"
    assert caught.value.hint.startswith("columns beside the text: ")


def test_counts_name_every_loss_and_its_first_place() -> None:
    good = [{"prompt": f"q{i}", "completion": "a"} for i in range(100)]
    bad = [{"prompt": "q", "completion": ""}, {"prompt": "", "completion": "a"}, {"prompt": "p", "completion": " "}]
    tool = {"messages": [{"role": "tool", "content": "x"}]}
    _, counts = collect(make_rows([*bad, *good, good[0], tool]))
    assert (counts.rows, counts.train + counts.heldout, counts.duplicates) == (105, 100, 1)
    assert counts.heldout > 5
    assert counts.dropped == (
        DropCount("empty answer", 2, "data.jsonl line 1"),
        DropCount("empty prompt", 1, "data.jsonl line 2"),
        DropCount("tool calls are not supported", 1, "data.jsonl line 105"),
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", " ", "a "]), max_size=12), st.floats(0, 1))
def test_counts_add_up_and_only_an_empty_side_is_an_error(texts: list[str], fraction: float) -> None:
    said = {text.strip() for text in texts if text.strip()}
    held = {text for text in said if in_heldout(Document(text), fraction)}
    collection = Collection([make_rows([{"text": text} for text in texts])], "pretrain", fraction)
    if said == held or not (held or fraction == 0):
        with pytest.raises(UserError):
            list(collection)
    else:
        assert len(list(collection)) == len(said)
    counts = collection.counts
    assert (counts.train, counts.heldout) == (len(said - held), len(held))
    assert counts.rows == len(texts)
    dropped = sum(drop.count for drop in counts.dropped)
    assert counts.train + counts.heldout + counts.duplicates + dropped == len(texts)


def test_all_rows_dropped_is_an_error_with_the_most_frequent_reason() -> None:
    rows = make_rows([{"prompt": "", "completion": "a"}, *[{"prompt": "q", "completion": ""}] * 2])
    with pytest.raises(UserError) as caught:
        collect(rows)
    assert str(caught.value) == (
        "no row of 3 can be used, 2 dropped: empty answer, first at data.jsonl line 2; mend the rows, or check that"
        " they are meant for sft"
    )


@pytest.mark.parametrize(("fraction", "side"), [(1e-9, "held-out"), (1.0, "training")])
def test_an_empty_side_is_an_error(fraction: float, side: str) -> None:
    rows = make_rows([{"prompt": "q", "completion": f"a{i % 20}"} for i in range(30)])
    with pytest.raises(UserError) as caught:
        collect([*rows, Row("data.jsonl line 31", {"prompt": "", "completion": "a"})], fraction=fraction)
    assert str(caught.value).startswith(
        f"the {side} split is empty: 20 of 31 rows kept, 10 repeated, 1 dropped: empty prompt, first at data.jsonl"
        f" line 31; give more rows, change the held-out fraction ({fraction:g})"
    )


def test_nothing_held_out_on_request() -> None:
    collected, counts = collect(question_rows(20), fraction=0.0)
    assert {side for side, _ in collected} == {"train"}
    assert counts == Counts(20, 20, 0, 0, ())


def test_no_rows_is_an_error() -> None:
    with pytest.raises(UserError, match="there are no rows"):
        collect([])


def test_a_row_of_no_form_stops_the_collection() -> None:
    collection = Collection([make_rows([{"prompt": "q", "completion": "a"}, {"x": 1}])], "sft", 0.5)
    with pytest.raises(UserError, match=r"data\.jsonl line 2: columns x: no form of sft data"):
        list(collection)


def test_the_first_of_equal_rows_is_kept() -> None:
    rows = make_rows([{"text": "t", "n": 1}, {"text": "t ", "n": 2}])
    assert [record.columns["n"] for _, record in collect(rows, "pretrain", 0.0)[0]] == [1]
