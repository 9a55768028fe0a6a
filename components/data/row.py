"""What a source gives, before anyone has looked at its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A row as its source has it.

    Attributes:
        where: The file and the line or row it begins at, for messages.
        value: Column → value, or the text itself where the source has no columns.
    """

    where: str
    value: dict[str, Any] | str
