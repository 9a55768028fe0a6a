"""A row's columns: which of them a record takes up, and the rest as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


class UnfitError(Exception):
    """A row of the right form that cannot be used.

    The message is the reason; it never quotes the row, so that equal faults have equal reasons and can be counted.
    """


class Fields:
    """The columns of a row by name, and which of them have been taken.

    Args:
        columns: The row.
        with_null: Whether a column is found although it is null.
    """

    def __init__(self, columns: Mapping[str, Any], with_null: bool = False) -> None:
        self._columns, self._with_null = columns, with_null
        self._taken: list[str] = []

    def find(self, names: Iterable[str]) -> str | None:
        """The first of these columns that the row has."""
        for name in names:
            if self._columns.get(name) is not None or (self._with_null and name in self._columns):
                return name
        return None

    def take(self, name: str) -> Any:
        """The value of a column, which from now on is not among the others."""
        self._taken.append(name)
        return self._columns[name]

    def others(self) -> dict[str, Any]:
        """The columns not taken, as plain JSON.

        Raises:
            UnfitError: A text in them is not valid Unicode.
        """
        if len(self._taken) == len(self._columns):
            return {}
        taken = self._taken
        return {_plain(name): _plain(value) for name, value in self._columns.items() if name not in taken}


def read_text(value: object, name: str) -> str:
    """A text as it is.

    Args:
        value: What the row has.
        name: Its column, for the reason.

    Raises:
        UnfitError: It is no text, or not one that UTF-8 can say.
    """
    if not isinstance(value, str):
        raise UnfitError(f"{name} is null" if value is None else f"{name} is not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UnfitError("text with half a surrogate pair, which is not valid Unicode") from error
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return read_text(value, "")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)  # dates and decimals of a parquet file
