"""Numbers, durations and times as a reader wants them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits: `4.90`, `1,394`, `4.7e-7`."""
    if not math.isfinite(value):
        return "not a number"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if size < -4 or size > 14:
        mantissa, _, exponent = f"{value:.{max(digits - 2, 0)}e}".partition("e")
        return _signed(f"{mantissa}e{int(exponent)}")
    return _signed(f"{value:,.{max(digits - 1 - size, 0)}f}")


def percent(value: float, digits: int = 1) -> str:
    """A share of 1 as per cent: `97.1 %`; nothing and everything without decimals."""
    if value in (0, 1):
        return f"{value * 100:.0f} %"
    return _signed(f"{value * 100:.{digits}f} %") if math.isfinite(value) else "not a number"


def rate(value: float) -> str:
    """A learning rate as people write them: `2e-4`, `0.004`."""
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if 0 < value < 1e-3 else f"{value:g}"


def count(value: float) -> str:
    """A whole number, in millions or billions where it is long: `139,584`, `134.5 M`."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return _signed(f"{value / size:.4g} {unit}")
    return _signed(f"{int(value):,}")


def size(value: float) -> str:
    """Bytes: `545 KiB`."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def duration(seconds: float) -> str:
    """A time span: `0.7 s`, `2 min 47 s`, `1 h 04 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def when(timestamp: float) -> str:
    """A moment in UTC: `24 Nov 2026, 10:48 UTC`."""
    moment = datetime.fromtimestamp(timestamp, UTC)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def short_digest(digest: str) -> str:
    """The first hex digits of a digest, enough to tell two apart."""
    return digest.rpartition(":")[2][:10]


def listed(words: list[str]) -> str:
    """Words as a sentence lists them: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _signed(text: str) -> str:
    return text.replace("-", MINUS, 1) if text.startswith("-") else text
