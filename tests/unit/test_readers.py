"""Every format gives its rows and their places, however much there is of it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from components.data.readers import SampleBy, read_rows
from tests.support.source_files import places, write

PROSE = "A sentence that was\nwrapped by hand.\n\n\nAnother one,\nof two lines.\n"
READABLE = [
    ("a.jsonl", '{"a": 1}\n\n  \n{"a": 2}\n', [("line 1", {"a": 1}), ("line 4", {"a": 2})]),
    ("a.jsonl", '{"a": "x"}\r\n{"a": "y"}', [("line 1", {"a": "x"}), ("line 2", {"a": "y"})]),
    ("a.jsonl", '{"a": "one\u2028line\u0085"}\n', [("line 1", {"a": "one\u2028line\u0085"})]),
    ("a.jsonl", '\ufeff{"a": "é"}\n', [("line 1", {"a": "é"})]),
    ("a.jsonl", '{"a": NaN, "b": [-Infinity]}\n', [("line 1", {"a": None, "b": [None]})]),
    ("a.json", '{"a": 1}\n{"a": 2}\n', [("line 1", {"a": 1}), ("line 2", {"a": 2})]),
    ("a.json", '[{"a": 1}, {"a": 2}]', [("line 1", {"a": 1}), ("line 1", {"a": 2})]),
    ("a.json", '\ufeff\n[\n  {\n    "a": 1\n  },\n  {"a": 2}\n]\n', [("line 3", {"a": 1}), ("line 6", {"a": 2})]),
    ("a.jsonl", '[\n{"a": NaN}]', [("line 2", {"a": None})]),
    ("A.JSONL", '{"a": 1}', [("line 1", {"a": 1})]),
    ("a.csv", "q,a\n1,x\n\n2,y\n", [("line 2", {"q": "1", "a": "x"}), ("line 4", {"q": "2", "a": "y"})]),
    (
        "a.csv",
        '\ufeffq, a\r\n"x\r\n""y""",z\r\n2,\r\n',
        [("line 2", {"q": 'x\r\n"y"', "a": "z"}), ("line 4", {"q": "2", "a": ""})],
    ),
    ("a.csv", ",q,a\n0,x,y\n", [("line 2", {"q": "x", "a": "y"})]),
    ("a.txt", "one\r\n\ttwo \n\n", [("line 1", "one"), ("line 2", "\ttwo ")]),
    ("a.txt", PROSE, [("line 1", "A sentence that was\nwrapped by hand."), ("line 5", "Another one,\nof two lines.")]),
]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("name", "content", "rows"), READABLE)
def test_every_format_gives_its_rows_and_their_places(
    tmp_path: Path, name: str, content: str, rows: list[tuple[str, Any]], packed: bool
) -> None:
    name = f"{name}.gz" if packed else name
    path = write(tmp_path, name, content)
    assert places(read_rows(str(path)), tmp_path) == [(f"{name} {place}", value) for place, value in rows]


def test_long_csv_fields_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text\n" + "x" * 200_000 + "\n")
    assert [row.value for row in read_rows(str(path))] == [{"text": "x" * 200_000}]


def test_parquet_rows(tmp_path: Path) -> None:
    values = [{"a": f"text {i}", "turns": [{"role": "user", "content": None}], "n": i} for i in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "a.parquet", row_group_size=700)
    rows = places(read_rows(str(tmp_path / "a.parquet")), tmp_path)
    assert rows == [(f"a.parquet row {i + 1}", value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("sample_by", "values"),
    [
        ("line", ["A sentence that was", "wrapped by hand.", "Another one,", "of two lines."]),
        ("paragraph", ["A sentence that was\nwrapped by hand.", "Another one,\nof two lines."]),
        ("document", [PROSE]),
    ],
)
def test_what_a_document_of_a_text_file_is(tmp_path: Path, sample_by: SampleBy, values: list[str]) -> None:
    path = write(tmp_path, "a.txt", PROSE.replace("\n", "\r\n"))
    assert [row.value for row in read_rows(str(path), sample_by=sample_by)] == values


@pytest.mark.parametrize(("lines_per_blank", "documents"), [(30, 3), (60, 180)])
def test_rare_blank_lines_do_not_make_paragraphs(tmp_path: Path, lines_per_blank: int, documents: int) -> None:
    block = "line\n" * lines_per_blank
    path = write(tmp_path, "a.txt", "\n".join([block] * 3))
    assert len(list(read_rows(str(path)))) == documents


def test_a_paragraph_without_end_is_cut(tmp_path: Path) -> None:
    line = "x" * 999
    path = write(tmp_path, "a.txt", "first\n\n" + f"{line}\n" * 3000)
    first, *rest = [str(row.value) for row in read_rows(str(path), sample_by="paragraph")]
    assert first == "first"
    assert max(map(len, rest)) <= 2**20 + 1000
    assert "\n".join(rest) == "\n".join([line] * 3000)


def test_max_samples_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n{"a": 2}\nbroken\n')
    assert [row.value for row in read_rows(str(path), max_samples=2)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    line = json.dumps({"a": "x" * 500}) if name == "a.jsonl" else "x" * 500
    path = write(tmp_path, name, f"{line}\n" * 20_000)
    list(read_rows(str(path), max_samples=10))
    tracemalloc.start()
    count = sum(1 for _ in read_rows(str(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count >= 19_999
    assert peak < path.stat().st_size / 10


def test_memory_does_not_grow_with_the_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with parquet.ParquetWriter(path, pyarrow.schema({"a": pyarrow.string()}), compression="none") as writer:
        for group in range(20):
            values = [f"{group} {i} " + "x" * 500 for i in range(1000)]
            writer.write_table(pyarrow.table({"a": values}))
    before = pyarrow.total_allocated_bytes()
    peak = max(pyarrow.total_allocated_bytes() - before for _ in read_rows(str(path)))
    assert peak < path.stat().st_size / 4
