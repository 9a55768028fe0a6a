"""A file that is broken anywhere is refused with the place; whatever bytes it has, there is no traceback."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from components.common.errors import UserError
from components.data.readers import Row, read_rows
from tests.support.source_files import write

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
