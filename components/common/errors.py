"""Failures a person can act on: one sentence, one exit code, one JSON line for the machine that started us.

RlhfError             1   a bug of ours
├── UserError         2   configuration or data to be mended by the user
├── InputError        3   an input artifact is missing, altered or of the wrong kind
└── RetryableError   75   the same command may succeed later (preempted, store or network gone)
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class RlhfError(Exception):
    """A failure described in one line: where it is, what is wrong, what to do.

    Args:
        what: What is wrong, as a clause without a full stop.
        where: The file, line, field or tensor it is about.
        hint: What to do about it.
    """

    code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = (_one_line(part) for part in (what, where, hint))
        super().__init__(str(self))

    def __str__(self) -> str:
        sentence = f"{self.where}: {self.what}" if self.where else self.what
        return f"{sentence}; {self.hint}" if self.hint else sentence

    def to_dict(self) -> dict[str, Any]:
        """The same, for the termination log and the run's record."""
        return {"code": self.code, "reason": self.what, "where": self.where, "hint": self.hint}


class UserError(RlhfError):
    """Configuration or data that the user has to mend."""

    code = 2


class InputError(RlhfError):
    """An input artifact that is missing, incomplete, altered or of the wrong kind."""

    code = 3


class RetryableError(RlhfError):
    """A failure of the surroundings: the same command may succeed later."""

    code = 75


ERROR_OF_CODE: dict[int, type[RlhfError]] = {
    kind.code: kind for kind in (RlhfError, UserError, InputError, RetryableError)
}


def error_from_dict(fields: dict[str, Any]) -> RlhfError:
    """Rebuilds the error that `RlhfError.to_dict` described."""
    kind = ERROR_OF_CODE.get(int(fields.get("code", 1)), RlhfError)
    return kind(
        str(fields.get("reason", "unknown failure")),
        where=str(fields.get("where", "")),
        hint=str(fields.get("hint", "")),
    )


def write_termination(error: RlhfError) -> None:
    """Leaves the error as JSON where Kubernetes, or the launcher, reads a container's last words.

    `RLHF_TERMINATION_LOG` names the file; without it `/dev/termination-log` is used when the kubelet mounted one.
    """
    path = Path(os.environ.get("RLHF_TERMINATION_LOG", "/dev/termination-log"))
    if "RLHF_TERMINATION_LOG" in os.environ or path.exists():
        # The kubelet keeps 4096 bytes, and a cut JSON could not be read back.
        fields = {
            name: _cut(value, 1200) if isinstance(value, str) else value for name, value in error.to_dict().items()
        }
        path.write_text(json.dumps(fields, ensure_ascii=False) + "\n", encoding="utf-8")


def _cut(value: Any, size: int) -> Any:
    """The beginning of a text that takes at most so many bytes, quotes and backslashes counted as JSON writes them."""
    while isinstance(value, str) and len(json.dumps(value, ensure_ascii=False).encode()) > size:
        value = value[: len(value) * 3 // 4]
    return value


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
