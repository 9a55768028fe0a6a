"""Text files as people have them: UTF-8 with or without a mark at the beginning, plain or packed by gzip."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from components.common.errors import UserError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Reads number and text of every line, line end included; only `\n` ends a line, unlike in `str.splitlines`.

    Raises:
        UserError: The file cannot be read or is not UTF-8.
    """
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield number, raw.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, error.start, raw) from error


def read_whole(path: Path) -> str:
    """Reads a file at once.

    Raises:
        UserError: The file cannot be read or is not UTF-8.
    """
    with _opened(path) as file:
        raw = file.read().removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        begin = raw.rfind(b"\n", 0, error.start) + 1
        number = raw.count(b"\n", 0, begin) + 1
        raise _not_utf8(path, number, error.start - begin, raw[begin:]) from error


def _not_utf8(path: Path, number: int, at: int, line: bytes) -> UserError:
    return UserError(
        f"not UTF-8: byte {at + 1} of the line is {line[at]:#04x}",
        where=f"{path} line {number}",
        hint="save the file as UTF-8",
    )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        packed = path.suffix.lower() == ".gz"
        with cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot be read: {reason}", where=str(path), hint="mend its permissions or write it again"
        ) from error
