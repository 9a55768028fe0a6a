"""One file → rows. Every format says where a broken file is broken, and all but a JSON array are read as a stream."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from components.common.errors import UserError
from components.data.files import read_lines, read_whole
from components.data.json_rows import json_rows
from components.data.row import Row

SampleBy = Literal["auto", "line", "paragraph", "document"]

_SNIFFED_LINES = 1000
_LINES_PER_BLANK = 50  # prose wrapped by hand has a blank line far more often, a line-per-document file hardly ever
_MAX_PARAGRAPH = 2**20  # characters; a file without blank lines must not become one string
_MAX_CSV_FIELD = 2**31 - 1  # the csv module's own limit of 131072 characters is less than one long document


def read_file(path: Path, sample_by: SampleBy) -> Iterator[Row]:
    """Reads a file of a known format.

    Args:
        path: A file for which `is_data` holds.
        sample_by: What one document of a `.txt` file is (see `read_rows`).

    Raises:
        UserError: The file cannot be read, is broken or has no rows.
    """
    suffix = _suffix(path)
    rows = _text_rows(path, sample_by) if suffix == ".txt" else _FORMATS[suffix](path)
    first = next(rows, None)
    if first is None:
        raise UserError("has no rows", where=str(path), hint="remove it or write it again")
    yield first
    yield from rows


def is_data(path: Path) -> bool:
    """Whether the file's suffix is one that `read_file` knows."""
    return _suffix(path) in _FORMATS or _suffix(path) == ".txt"


def _suffix(path: Path) -> str:
    name = Path(path.name.lower())
    packed = name.suffix == ".gz" and Path(name.stem).suffix != ".parquet"
    return Path(name.stem).suffix if packed else name.suffix


def _text_rows(path: Path, sample_by: SampleBy) -> Iterator[Row]:
    if sample_by == "auto":
        sample_by = _guess_unit(path)
    if sample_by == "document":
        text = read_whole(path).replace("\r\n", "\n")
        if text.strip():
            yield Row(str(path), text)
    elif sample_by == "paragraph":
        yield from _paragraphs(path)
    else:
        for number, line in read_lines(path):
            if line.strip():
                yield Row(f"{path} line {number}", line.rstrip("\r\n"))


def _guess_unit(path: Path) -> SampleBy:
    head = [bool(line.strip()) for _, line in islice(read_lines(path), _SNIFFED_LINES)]
    while head and not head[-1]:  # blank lines at the end separate nothing
        head.pop()
    return "paragraph" if head.count(False) * _LINES_PER_BLANK >= max(len(head), 1) else "line"


def _paragraphs(path: Path) -> Iterator[Row]:
    start, held, size = 0, list[str](), 0
    for number, line in read_lines(path):
        blank = not line.strip()
        if not blank:
            start = start if held else number
            held.append(line.rstrip("\r\n"))
            size += len(line)
        if held and (blank or size >= _MAX_PARAGRAPH):
            yield Row(f"{path} line {start}", "\n".join(held))
            held, size = [], 0
    if held:
        yield Row(f"{path} line {start}", "\n".join(held))


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CSV_FIELD)
    # Not strict, an open quote would swallow the rest of the file without a word.
    reader = csv.reader((line for _, line in read_lines(path)), strict=True)
    header = list[str]()
    where = f"{path} line 1"
    try:
        for values in reader:
            if not values:
                pass
            elif not header:
                header = _header(values, where)
            elif len(values) == len(header):
                yield Row(where, {name: value for name, value in zip(header, values, strict=True) if name})
            else:
                raise UserError(
                    f"the row has {len(values)} values, the header {len(header)}",
                    where=where,
                    hint="put values that hold commas or line breaks in double quotes",
                )
            where = f"{path} line {reader.line_num + 1}"
    except csv.Error as error:
        raise UserError(
            f"not valid CSV: {error}", where=where, hint="in a quoted value write every double quote twice"
        ) from error


def _header(names: list[str], where: str) -> list[str]:
    """Column names; a column without one, such as the index that pandas writes, cannot be referred to and is left out.

    Raises:
        UserError: Two columns have the same name.
    """
    names = [name.strip() for name in names]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise UserError(f"two columns are called {twice}", where=where, hint="give every column its own name")
    return names


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow", where=str(path), hint="install rlhf-stack[train]") from error
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:  # pre-buffered, the whole file is held in memory
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path} row {number}", value)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        where = f"{path} after row {number}" if number else str(path)
        raise UserError(
            f"not a parquet file that can be read: {error}",
            where=where,
            hint="write it again, or name it by its format",
        ) from error


_FORMATS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".json": json_rows,
    ".jsonl": json_rows,
    ".parquet": _parquet_rows,
}
