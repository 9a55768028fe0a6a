from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import UserError
from components.data.readers import read_rows
from components.data.records import TASKS
from components.data.split import Collection
from pipelines.examples.medical_coding.classification import Entry, read_entries
from pipelines.examples.medical_coding.questions import KINDS, line, record
from pipelines.examples.medical_coding.rewards import exact_answer
from pipelines.examples.medical_coding.sources import write_sources

SMALL = {
    "base_documents": 3000,
    "pretrain_documents": 400,
    "sft_rows": {"chapter": 50, "side": 40, "injury": 90, "parent": 20},
    "reward_rows": {"side": 100, "healing": 240, "trimester": 6000},
    "rl_rows": {"encounter": 60, "text": 10},
}


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    return {entry.code: entry for entry in read_entries()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder, 0, SMALL)
    return folder


def rows_of(folder: Path, part: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / part / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_entry_says_what_the_classification_says(entries: dict[str, Entry]) -> None:
    assert entries["S52.521A"] == Entry(
        code="S52.521A",
        text="Torus fracture of lower end of right radius, initial encounter for closed fracture",
        chapter=19,
        block_text="Injuries to the elbow and forearm",
        category_text="Fracture of forearm",
        parent="S52.521",
        parent_text="Torus fracture of lower end of right radius",
        extension="initial encounter for closed fracture",
        side="right",
    )


def test_only_ends_of_branches_are_entries(entries: dict[str, Entry]) -> None:
    assert len(entries) == len(read_entries())
    assert "B20" in entries, "a category without subcategories"
    assert not {"S52", "S52.521", "S50-S59", "T07-T88", "19"} & entries.keys()


def test_block_that_shares_a_categorys_name_is_told_from_it(entries: dict[str, Entry]) -> None:
    assert entries["C50.011"].block_text == "Malignant neoplasms of breast"
    assert entries["C50.011"].category_text == "Malignant neoplasm of breast"


def test_notes_are_no_part_of_a_text(entries: dict[str, Entry]) -> None:
    assert entries["S52.001B"].extension == "initial encounter for open fracture type I or II"
    assert not [entry.code for entry in entries.values() if "\t" in entry.text]


def test_side_needs_a_code_for_the_other_side(entries: dict[str, Entry]) -> None:
    assert entries["C50.011"].side == "right"
    assert entries["T81.61XS"].side is None, "a foreign substance accidentally left during a procedure"
    assert entries["I45.0"].side is None, "right fascicular block; there is no left one by that name"
    sides = Counter(entry.side for entry in entries.values())
    assert sides["right"] == sides["left"] > 10000


@pytest.mark.parametrize(
    ("code", "answers"),
    [
        (
            "S52.521G",
            {
                "chapter": "19",
                "side": "right",
                "encounter": "subsequent",
                "healing": "delayed",
                "region": "elbow",
                "injury": "fracture",
                "parent": "S52.521",
                "text": "Torus fracture of lower end of right radius, "
                "subsequent encounter for fracture with delayed healing",
            },
        ),
        (
            "S72.002C",
            {
                "chapter": "19",
                "side": "left",
                "encounter": "initial",
                "fracture": "open",
                "region": "hip",
                "injury": "fracture",
                "parent": "S72.002",
                "text": "Fracture of unspecified part of neck of left femur, "
                "initial encounter for open fracture type IIIA, IIIB, or IIIC",
            },
        ),
        ("O26.832", {"chapter": "15", "trimester": "second"}),
        ("W07.XXXS", {"chapter": "20", "encounter": "sequela", "parent": "W07", "text": "Fall from chair, sequela"}),
        (
            "O60.13X1",
            {
                "chapter": "15",
                "parent": "O60.13",
                "text": "Preterm labor second trimester with preterm delivery third trimester, fetus 1",
            },
        ),
        ("B20", {"chapter": "1"}),
    ],
)
def test_answers(entries: dict[str, Entry], code: str, answers: dict[str, str]) -> None:
    given = {name: kind.answer(entries[code]) for name, kind in KINDS.items()}
    assert {name: answer for name, answer in given.items() if answer is not None} == answers


def test_answers_are_among_the_values(entries: dict[str, Entry]) -> None:
    for kind in KINDS.values():
        if kind.values:
            assert {kind.answer(entry) for entry in entries.values()} - {None} == set(kind.values), kind.name


def test_questions_hold_the_code_and_not_the_answer(entries: dict[str, Entry]) -> None:
    entry = entries["S52.521G"]
    assert KINDS["side"].ask(entry) == "S52.521G: which side?"
    assert KINDS["side"].ask(entry, with_text=True) == f"S52.521G {entry.text}: which side?"
    assert KINDS["text"].ask(entry, with_text=True) == KINDS["text"].ask(entry)
    asked = KINDS["text"].ask(entry)
    assert asked == "S52.521: Torus fracture of lower end of right radius. S52.521G: which text?"


def test_documents(entries: dict[str, Entry]) -> None:
    assert line(entries["O26.832"]) == "O26.832 Pregnancy related renal disease, second trimester"
    assert record(entries["S52.521G"]) == "S52.521G|19|right|subsequent|delayed|elbow|fracture"


def test_chapters_go_where_they_belong(entries: dict[str, Entry], sources: Path) -> None:
    chapters = {
        part: Counter(entries[row["code"]].chapter for row in rows_of(sources, part)) for part in ("base", "pretrain")
    }
    assert chapters["base"] == {19: 3000}
    assert chapters["pretrain"].keys() == {7, 13, 15, 19, 20}
    assert chapters["pretrain"][19] == 100, "a quarter is replayed"


def test_documents_come_in_both_forms(sources: Path) -> None:
    texts = [row["text"] for row in rows_of(sources, "base")]
    assert 0.7 < sum("|" in text for text in texts) / len(texts) < 0.8


def test_rows_answer_rightly(entries: dict[str, Entry], sources: Path) -> None:
    for row in rows_of(sources, "sft"):
        kind, entry = KINDS[row["kind"]], entries[row["code"]]
        assert row["messages"] == [
            {"role": "user", "content": kind.ask(entry)},
            {"role": "assistant", "content": kind.answer(entry)},
        ]
    for row in rows_of(sources, "rl"):
        kind, entry = KINDS[row["kind"]], entries[row["code"]]
        assert (row["prompt"], row["answer"]) == (kind.ask(entry), kind.answer(entry))
    for row in rows_of(sources, "reward"):
        kind, entry = KINDS[row["kind"]], entries[row["code"]]
        assert (row["prompt"], row["chosen"]) == (kind.ask(entry), kind.answer(entry))
        assert row["rejected"] in {*kind.values} - {row["chosen"]}


def test_each_value_is_asked_for_equally_often(sources: Path) -> None:
    answers = Counter((row["kind"], row["messages"][1]["content"]) for row in rows_of(sources, "sft"))
    assert {count for (kind, _), count in answers.items() if kind == "injury"} == {10}
    assert {count for (kind, _), count in answers.items() if kind == "side"} == {20}


def test_no_value_is_preferred_to_another(sources: Path) -> None:
    contests = Counter((row["kind"], row["chosen"], row["rejected"]) for row in rows_of(sources, "reward"))
    assert {count for (kind, *_), count in contests.items() if kind == "healing"} == {20}
    assert all(contests[kind, wrong, right] == count for (kind, right, wrong), count in contests.items())
    assert len(contests) == 2 + 12 + 6
    assert {count for (kind, *_), count in contests.items() if kind == "trimester"} == {362, 392}, "all there are"


def test_kinds_are_mixed(sources: Path) -> None:
    assert len({row["kind"] for row in rows_of(sources, "sft")[:30]}) == 4


def test_a_held_out_code_is_held_out_everywhere(sources: Path) -> None:
    sides: dict[str, set[str]] = {}
    for part in ("base", *TASKS):
        task = "pretrain" if part == "base" else part
        collection = Collection([read_rows(str(sources / part))], task, 0.1, "code")
        for placed in collection:
            sides.setdefault(str(placed.record.columns["code"]), set()).add(placed.side)
        assert not collection.counts.dropped
        assert collection.counts.heldout > 0
    assert all(len(found) == 1 for found in sides.values())


def test_same_seed_writes_the_same_whatever_the_hash_seed(sources: Path, tmp_path: Path) -> None:
    call = "import sys, json, pathlib; from pipelines.examples.medical_coding.sources import write_sources as write;"
    call += "write(pathlib.Path(sys.argv[1]), 0, json.loads(sys.argv[2]))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", call, str(tmp_path), json.dumps(SMALL)], check=True, env=environment)
    for part in ("base", *TASKS):
        assert rows_of(tmp_path, part) == rows_of(sources, part)


def test_another_seed_writes_other_rows(sources: Path, tmp_path: Path) -> None:
    write_sources(tmp_path, 1, SMALL)
    for part in ("base", *TASKS):
        assert rows_of(tmp_path, part) != rows_of(sources, part)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sft_rows": {"sied": 10}}, "sft_rows: no kind of question: sied"),
        ({"reward_rows": {"text": 10}}, "reward_rows: no kind of question: text"),
        ({"base_chapters": (1,), "pretrain_chapters": (2,)}, "no code of these chapters has a region"),
        ({"records": 0.5}, "did you mean record_share"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=r"data\.builder\.options") as error:
        write_sources(tmp_path, 0, options)
    assert words in str(error.value)


def test_exact_answer() -> None:
    completions = [" right\n", "left", "right side", ""]
    assert exact_answer(["?"] * 4, completions, answer=["right"] * 4, kind=["side"] * 4) == [1.0, 0.0, 0.0, 0.0]
