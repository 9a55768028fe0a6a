from __future__ import annotations

import gzip
import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from components.common.errors import UserError
from components.data.hub import HubName, hub_name
from components.data.readers import Row, SampleBy, read_rows

PROSE = "A sentence that was\nwrapped by hand.\n\n\nAnother one,\nof two lines.\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def places(rows: Iterator[Row], folder: Path) -> list[tuple[str, Any]]:
    return [(row.where.removeprefix(f"{folder}/"), row.value) for row in rows]


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


BROKEN = [
    ("a.jsonl", b'{"a": 1}\n{"a": 1,\n', "line 2 column 9", "not valid JSON: Expecting property name"),
    ("a.jsonl", b'{"a": 1}\r\n{"a": "x\n', "line 2 column 7", "not valid JSON: Unterminated string"),
    ("a.jsonl", b'{"a": 1} {"a": 2}\n', "line 1 column 10", "not valid JSON: Extra data"),
    ("a.jsonl", b'{"a": 1}\n\n[1]\n', "line 3", "an object is expected, not an array"),
    ("a.jsonl", b'"text"\n', "line 1", "an object is expected, not a text"),
    ("a.jsonl", b"7\n", "line 1", "an object is expected, not a number"),
    ("a.jsonl", b"true\n", "line 1", "an object is expected, not a truth value"),
    ("a.jsonl", b"null\n", "line 1", "an object is expected, not null"),
    ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "line 2", "not UTF-8: byte 8 of the line is 0xe9"),
    ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", "line 1", "nested too deeply"),
    ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", "line 1", "JSON that cannot be read: Exceeds the limit"),
    ("a.jsonl", b"\n \n", "", "has no rows"),
    ("a.json", b'[\n{"a": 1},\n{"a" 2}]', "line 3 column 6", "not valid JSON: Expecting ':' delimiter"),
    ("a.json", b'[{"a": 1}\n {"a": 2}]', "line 2 column 2", "not valid JSON: Expecting ',' or ']'"),
    ("a.json", b'[{"a": 1},\n]', "line 2 column 1", "not valid JSON: Expecting value"),
    ("a.json", b'[{"a": 1}', "line 1 column 10", "not valid JSON: Expecting ',' or ']'"),
    ("a.json", b'[{"a": 1}]\n[2]', "line 2 column 1", "not valid JSON: Extra data"),
    ("a.json", b'[\n\n{"a": 1},\n{"a": ' + b"9" * 5000 + b"}]", "line 4", "JSON that cannot be read"),
    ("a.json", b'[{"a": 1},\n3]', "line 2", "an object is expected, not a number"),
    ("a.json", b'[\n{"a": 1},\n{"a": "\xff"}]', "line 3", "not UTF-8: byte 8 of the line is 0xff"),
    ("a.json", b'{\n  "a": 1\n}\n', "line 1 column 2", "not valid JSON"),
    ("a.json", b"[\n]\n", "", "has no rows"),
    ("a.csv", b"q,a\n1,2\n1,2,3\n", "line 3", "the row has 3 values, the header 2"),
    ("a.csv", b"q,a\n1\n", "line 2", "the row has 1 values, the header 2"),
    ("a.csv", b'q,a\n1,2\n1,"open\n2,3\n', "line 3", "not valid CSV: unexpected end of data"),
    ("a.csv", b'q,a\n1,"x" y\n', "line 2", "not valid CSV"),
    ("a.csv", b"q,a,q\n1,2,3\n", "line 1", "two columns are called q"),
    ("a.csv", b'q,a\n1,"x\n\xe9"\n', "line 3", "not UTF-8: byte 1 of the line is 0xe9"),
    ("a.csv", b"q,a\n", "", "has no rows"),
    ("a.txt", b"one\ntwo \xff\n", "line 2", "not UTF-8: byte 5 of the line is 0xff"),
    ("a.txt", "text".encode("utf-16"), "line 1", "not UTF-8: byte 1 of the line is 0xff"),
    ("a.txt", b" \n\n", "", "has no rows"),
    ("a.txt", b"", "", "is empty"),
    ("a.parquet", b"", "", "is empty"),
    ("a.parquet", b"text\n", "", "not a parquet file that can be read"),
]


@pytest.mark.parametrize(("name", "content", "place", "what"), BROKEN)
def test_a_broken_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, place: str, what: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        list(read_rows(str(path)))
    assert caught.value.where == f"{path} {place}".rstrip()
    assert caught.value.what.startswith(what) or what in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b'{"a": 1}\n' * 999)[:-20]], ids=["other", "cut"])
def test_a_broken_gzip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: cannot be read: "):
        list(read_rows(str(path)))


def test_a_parquet_file_that_breaks_off_says_after_which_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with parquet.ParquetWriter(path, pyarrow.schema({"a": pyarrow.string()}), compression="none") as writer:
        for letter in "xy":
            writer.write_table(pyarrow.table({"a": [f"{letter}{i}" * 9 for i in range(1024)]}), row_group_size=1024)
    path.write_bytes(path.read_bytes().replace(b"y7" * 9, b"\xff" * 18))
    with pytest.raises(UserError, match=r"a\.parquet after row 1024: not a parquet file that can be read"):
        list(read_rows(str(path)))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a.jsonl", "{}\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read: Permission denied"):
        list(read_rows(str(path)))


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("nowhere/data.jsonl", "no such file or folder"),
        ("./nowhere/data", "no such file or folder"),
        ("/nowhere", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("hf://owner", "not a name on the hub"),
        ("hf://owner/name/config/more", "not a name on the hub"),
        ("s3://bucket/data", "no store for s3://"),
    ],
)
def test_a_source_that_is_not_there_is_refused_at_once(source: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(source)
    assert caught.value.what == what
    assert caught.value.where == source


def test_a_folder_is_read_in_order_of_paths(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", '{"n": 3}\n')
    write(tmp_path, "a/z.txt.gz", "text\n")
    write(tmp_path, "a/y.csv", "n\n1\n")
    write(tmp_path, ".git/config.json", "no JSON")
    write(tmp_path, "a/.hidden.jsonl", "no JSON")
    for name in ("README.md", "a/LICENSE", "a/readme.txt", "_SUCCESS"):
        write(tmp_path, name, "not data")
    assert places(read_rows(str(tmp_path)), tmp_path) == [
        ("a/y.csv line 2", {"n": "1"}),
        ("a/z.txt.gz line 1", "text"),
        ("b.jsonl line 1", {"n": 3}),
    ]
    assert len(list(read_rows(f"file://{tmp_path}", max_samples=2))) == 2


def test_a_folder_with_other_files_is_refused_by_their_names(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "{}\n")
    for name in ("b.xlsx", "c.jsonl.zst", "d", "e.parquet.gz"):
        write(tmp_path, name, "x")
    with pytest.raises(UserError, match="no format that can be read") as caught:
        read_rows(str(tmp_path))
    assert caught.value.where == f"{tmp_path}/b.xlsx, {tmp_path}/c.jsonl.zst, {tmp_path}/d and 1 more"


def test_a_folder_without_data_and_one_with_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "not data")
    with pytest.raises(UserError, match="the folder has no data files"):
        read_rows(str(tmp_path))
    write(tmp_path, "a.jsonl", "{}\n")
    write(tmp_path, "b.jsonl", "")
    with pytest.raises(UserError, match=r"b\.jsonl: is empty"):
        read_rows(str(tmp_path))


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


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("owner/some-data", HubName("owner/some-data", None, "train")),
        ("owner/data.v2:test", HubName("owner/data.v2", None, "test")),
        ("hf://owner/data", HubName("owner/data", None, "train")),
        ("hf://datasets/owner/data:a.b", HubName("owner/data", None, "a.b")),
        ("hf://owner/data/main:test", HubName("owner/data", "main", "test")),
        ("owner/data/main", None),
        ("../data", None),
        ("/owner/data", None),
        ("data", None),
        ("owner/data:", None),
    ],
)
def test_names_on_the_hub(source: str, name: HubName | None) -> None:
    assert hub_name(source) == name


@pytest.mark.parametrize("offline", [False, True])
def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    asked = []

    def load(*args: object, **options: object) -> list[dict[str, int]]:
        asked.append((args, options))
        return [{"a": 1}, {"a": 2}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    rows = list(read_rows("hf://owner/data/main:test"))
    assert rows == [Row(f"hf://owner/data/main:test row {n}", {"a": n}) for n in (1, 2)]
    assert asked == [(("owner/data", "main"), {"split": "test", "streaming": not offline})]


def test_what_exists_locally_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "owner/data/a.jsonl", '{"a": 1}\n')
    monkeypatch.chdir(tmp_path)
    assert list(read_rows("owner/data")) == [Row("owner/data/a.jsonl line 1", {"a": 1})]


def broken_off() -> Iterator[dict[str, int]]:
    yield {"a": 1}
    raise RuntimeError("cut\nin two")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            lambda: (_ for _ in ()).throw(ConnectionError("Couldn't reach it")),
            "owner/data: .*: Couldn't reach it; check",
        ),
        (broken_off, "owner/data after row 1: .*: cut; check"),
        (list, "owner/data: has no rows; choose another split"),
    ],
)
def test_a_dataset_that_the_hub_does_not_give(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[], Any], message: str
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: load())
    with pytest.raises(UserError, match=message):
        list(read_rows("owner/data"))


@pytest.mark.parametrize(("module", "source"), [("pyarrow", "a.parquet"), ("datasets", "owner/data")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str) -> None:
    write(tmp_path, "a.parquet", "x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(UserError, match=rf"needs {module}; install rlhf-stack\[train\]"):
        list(read_rows(source))


def read_or_error(path: Path) -> list[Row] | UserError:
    try:
        return list(read_rows(str(path)))
    except UserError as error:
        return error


FRAGMENTS = st.sampled_from(
    [
        b'{"a":',
        b"{}",
        b"[",
        b"]",
        b",",
        b'"',
        b"\n",
        b"\r",
        b"\\ud800",
        b"\xff",
        b"1e999",
        b"NaN",
        b"\x00",
        b"\xef\xbb\xbf",
    ]
)
CONTENT = st.one_of(st.binary(max_size=60), st.lists(FRAGMENTS, max_size=12).map(b"".join))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet", "a.txt.gz"])
@settings(deadline=None)
@given(content=CONTENT)
def test_any_bytes_give_rows_or_a_user_error(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        rows = read_or_error(path)
        if isinstance(rows, UserError):
            assert rows.where.startswith(str(path))
        else:
            assert rows
            assert all(isinstance(row.value, dict | str) for row in rows)
