"""What one check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from components.common.errors import RlhfError

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was looked at.
        state: `failed` if a run cannot do without it, `warning` if it can.
        what: What is there, or is not.
        remedy: What to do about it; empty if nothing.
    """

    name: str
    state: State
    what: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(name: str, check: Check) -> Iterator[Finding]:
    """Runs a check; an error that it does not expect is what it found."""
    try:
        yield from check()
    except RlhfError as error:
        yield Finding(name, "failed", f"{error.where}: {error.what}" if error.where else error.what, error.hint)
