"""A JSON lines file that an interrupted command goes on with.

Beside `answers.jsonl` lies `answers.jsonl.request.json`, which says what the file was asked for: the digests of model
and input and every option that can change a row. The same request goes on after the rows that are there; another one is
refused, and so is a file without a request: it is not ours.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.common.errors import UserError

BEGIN_ANEW = "remove it to begin anew, or give another name"


class JsonLines:
    """An open output file.

    Args:
        path: Where it is.
        file: The file, ended at its last whole line.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that are there.

        Raises:
            UserError: A line is no JSON object.
        """
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise self._foreign(number) from error
            if not isinstance(row, dict):
                raise self._foreign(number)
            yield row

    def kept(
        self, count: int, columns: Callable[[int], Sequence[Mapping[str, Any]]], written: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The rows that are there, each compared with what this command would write in its place.

        Args:
            count: How many rows there will be.
            columns: From a row's index to what may stand in it beside what is computed.
            written: Names of what is computed.

        Raises:
            UserError: Someone else wrote or moved a row.
        """
        rows = []
        for index, row in enumerate(self.rows()):
            own = {name: value for name, value in row.items() if name not in written}
            if index == count or own not in columns(index):
                raise self._foreign(index + 1)
            rows.append(row)
        return rows

    def _foreign(self, number: int) -> UserError:
        return UserError(
            "is not the row that this command wrote there", where=f"{self.path} line {number}", hint=BEGIN_ANEW
        )

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows; whoever kills this process afterwards finds them in the file.

        Raises:
            UserError: The disk is full.
        """
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            self._file.write(text.encode())
            self._file.flush()
        except OSError as error:
            raise _cannot_write(self.path, error) from error


@contextmanager
def open_output(path: Path, request: Mapping[str, Any]) -> Iterator[JsonLines]:
    """Opens an output file, and keeps other commands from writing it meanwhile.

    If the command fails before it has written a row, nothing is left.

    Args:
        path: The file; it and its request are made if they are not there.
        request: What is asked for, as plain JSON: everything that can change a row.

    Raises:
        UserError: The file cannot be written, is not of this request, or another command is writing it.
    """
    if path.suffix != ".jsonl":
        raise UserError("the output is JSON lines", where=str(path), hint="let its name end with .jsonl")
    beside = path.with_name(f"{path.name}.request.json")
    with _opened(path) as file:
        try:
            _check_request(path, beside, request)
            _drop_half_line(file)
            yield JsonLines(path, file)
        finally:
            if file.seek(0, os.SEEK_END) == 0:
                path.unlink()
                beside.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("a+b")
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("another command is writing it", where=str(path), hint="wait for that one") from error
        yield file


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot be written: {error.strerror}", where=str(path), hint="mend the path, or free space")


def _check_request(path: Path, beside: Path, request: Mapping[str, Any]) -> None:
    """Compares the request with that of the file, or leaves it beside a new one."""
    if path.stat().st_size == 0:
        beside.write_text(json.dumps(request, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    if not beside.is_file():
        raise UserError("is there already and was not written by this command", where=str(path), hint=BEGIN_ANEW)
    try:
        there = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("cannot be read", where=str(beside), hint=f"{path}: {BEGIN_ANEW}") from error
    if there != request:
        names = sorted(name for name in there.keys() | request.keys() if there.get(name) != request.get(name))
        raise UserError(f"was made with another {', '.join(names)}", where=str(path), hint=BEGIN_ANEW)


def _drop_half_line(file: IO[bytes]) -> None:
    """Cuts off what a killed command left of its last line."""
    size = file.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        begin = max(0, end - 65536)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end != size:
        file.truncate(end)
