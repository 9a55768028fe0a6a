"""Lines of a log, and which of them have been seen before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# A stream can only be asked for from a whole second on; stdout and stderr are stamped apart, so that lines may lie a
# little out of order.
OVERLAP = timedelta(seconds=2)


@dataclass(frozen=True)
class Line:
    """A line of a log: when it was written (RFC 3339 with nanoseconds, as the kubelet says it), and its text."""

    time: str
    text: str

    @staticmethod
    def parse(raw: str) -> Line:
        """Reads `time text`."""
        stamp, _, text = raw.partition(" ")
        return Line(stamp, text.rstrip("\r"))

    def __str__(self) -> str:
        return f"{self.time} {self.text}"


class SeenLines:
    """The lines of the last seconds, so that what a new stream repeats is told from what is new.

    Args:
        lines: What an earlier reader has seen last.
    """

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self._recent: Counter[Line] = Counter()
        self._repeated: Counter[Line] = Counter()
        self._newest = self._known_until = self._pruned = ""
        for line in lines:
            self._add(line)

    def since(self) -> str:
        """From when on to read again; empty: from the beginning."""
        return _stamp(_moment(self._newest) - OVERLAP) if self._newest else ""

    def begin(self) -> None:
        """A new stream begins, at `since`."""
        self._repeated, self._known_until = Counter(), self._newest

    def is_new(self, line: Line) -> bool:
        """Whether a line of the stream was not seen before; it is seen then."""
        if line.time <= self._known_until:
            self._repeated[line] += 1
            if self._repeated[line] <= self._recent[line]:
                return False
        self._add(line)
        return True

    def _add(self, line: Line) -> None:
        self._recent[line] += 1
        self._newest = max(self._newest, line.time)
        if self._newest[:18] > self._pruned:  # once in ten seconds
            self._pruned = self._newest[:18]
            oldest = _moment(self._newest) - 4 * OVERLAP
            self._recent = Counter({known: n for known, n in self._recent.items() if _moment(known.time) >= oldest})


def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
