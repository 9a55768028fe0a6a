"""JSON files → rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common.errors import UserError
from components.data.files import read_lines, read_whole
from components.data.row import Row

_WHITESPACE = " \t\n\r"
_HINT = "write one whole JSON object per line, or one array of objects"


def json_rows(path: Path) -> Iterator[Row]:
    """Reads a file with an object per line, as a stream, or one array of objects, whose text is held in memory.

    Raises:
        UserError: The file cannot be read or is not JSON of these two kinds; line and column are named.
    """
    # `.json` files with an object per line are as common as arrays, so the content decides and not the suffix.
    lines = (line.strip(_WHITESPACE) for _, line in read_lines(path))
    first = next(filter(None, lines), "")
    return _array_rows(path) if first.startswith("[") else _json_line_rows(path)


def _json_line_rows(path: Path) -> Iterator[Row]:
    for number, line in read_lines(path):
        if not line.strip(_WHITESPACE):
            continue
        try:
            value = _JSON.decode(line.rstrip("\r\n"))
        except _JSON_FAULTS as error:
            raise _json_error(path, number, error) from error
        yield _object_row(f"{path} line {number}", value)


def _array_rows(path: Path) -> Iterator[Row]:
    text = read_whole(path)
    at = _skip_space(text, _skip_space(text, 0) + 1)
    line, counted = 1, 0
    closed = text.startswith("]", at)
    while not closed:
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at, closed = _array_item(text, at)
        except _JSON_FAULTS as error:
            raise _json_error(path, getattr(error, "lineno", line), error) from error
        yield _object_row(f"{path} line {line}", value)
    end = _skip_space(text, at + 1)
    if end != len(text):
        extra = json.JSONDecodeError("Extra data", text, end)
        raise _json_error(path, extra.lineno, extra)


def _array_item(text: str, at: int) -> tuple[Any, int, bool]:
    """The item at `at`, the place of the next one or of the closing bracket, and whether that bracket comes.

    Raises:
        JSONDecodeError: There is no item or nothing sensible follows it.
    """
    value, end = _JSON.raw_decode(text, at)
    end = _skip_space(text, end)
    if text.startswith("]", end):
        return value, end, True
    if text.startswith(",", end):
        return value, _skip_space(text, end + 1), False
    raise json.JSONDecodeError("Expecting ',' or ']' after an item", text, end)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at


def _null(_: str) -> None:
    """NaN and the infinities are not JSON; pandas and Python write them for values that are missing."""


_JSON = json.JSONDecoder(parse_constant=_null)
_JSON_FAULTS = (ValueError, RecursionError)  # also a number of thousands of digits, thousands of open brackets


def _json_error(path: Path, line: int, error: ValueError | RecursionError) -> UserError:
    where = f"{path} line {line}"
    if isinstance(error, json.JSONDecodeError):
        return UserError(f"not valid JSON: {error.msg}", where=f"{where} column {error.colno}", hint=_HINT)
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return UserError(f"JSON that cannot be read: {reason}", where=where, hint="remove that row")


def _object_row(where: str, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(where, value)
    names = {list: "an array", str: "a text", bool: "a truth value", type(None): "null"}
    raise UserError(f"an object is expected, not {names.get(type(value), 'a number')}", where=where, hint=_HINT)
