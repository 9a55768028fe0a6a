"""Curves as small line charts in SVG, drawn for 352 × 176 pixels and readable at any width.

The page's script reads `data-points` to name the value under the pointer; without it the chart is complete too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from components.report.collect import Point
from components.report.formats import MINUS
from components.report.metrics import Metric

WIDTH, HEIGHT = 352, 176
TOP, RIGHT, BOTTOM = 8, 12, 22
DIGIT_WIDTH = 6.6  # of the labels' 11 px type, at its widest
MAX_POINTS = 600  # drawn; of more, each stretch's extremes are kept
MAX_SMOOTHED = 300  # places at which a smooth line is worked out
SMOOTHED_FROM = 24  # points: fewer need no guide for the eye
NOISE = 0.02  # mean distance of a point from its neighbours' middle, as a share of the range


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: First pixel.
        end: Last pixel.
        ticks: Values that are labelled.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def pixel(self, value: float) -> float:
        """Where a value is."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(points: Sequence[Point], metric: Metric) -> Markup:
    """Draws a curve: grid, ticks, the raw line, a smooth one over it where it is noisy, a dot at its end.

    Args:
        points: Step and value, by step; what is not finite is left out.
        metric: What the values are.

    Returns:
        An `<svg>`; empty when there is no point.
    """
    points = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return Markup("")
    values = [y for _, y in points]
    low, high = _padded(min(values), max(values))
    y_ticks = nice_ticks(low, high, 5)
    write = tick_writer(y_ticks, is_share=metric.is_share)
    left = 10 + DIGIT_WIDTH * max(len(write(tick)) for tick in y_ticks)
    y_axis = Axis(low, high, HEIGHT - BOTTOM, TOP, y_ticks)
    x_axis = _step_axis([x for x, _ in points], left)
    drawn = thin(points, MAX_POINTS)
    smooth = smoothed(points) if is_noisy(values) else []
    last = points[-1]
    first_shown, last_shown = metric.show(points[0][1]), metric.show(last[1])
    summary = f"{metric.label}: {first_shown} at step {points[0][0]:g}, {last_shown} at step {last[0]:g}"
    parts = [
        Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" data-points="{}" data-share="{}">'
        ).format(WIDTH, HEIGHT, summary, _data(drawn, x_axis), int(metric.is_share)),
        *_grid(x_axis, y_axis, write, left),
        _polyline("raw faint" if smooth else "raw", drawn, x_axis, y_axis),
        _polyline("smooth", smooth, x_axis, y_axis) if smooth else Markup(""),
        Markup('<circle class="end" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
            x_axis.pixel(last[0]), y_axis.pixel(last[1])
        ),
        Markup("</svg>"),
    ]
    return Markup("").join(parts)


def nice_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Round values between two bounds: multiples of 1, 2, 2.5 or 5 times a power of ten, at most `most` + 1."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def tick_writer(ticks: Sequence[float], *, is_share: bool = False) -> Callable[[float], str]:
    """A function that writes ticks, all with the same number of decimals."""
    factor = 100 if is_share else 1
    step = (ticks[1] - ticks[0]) * factor if len(ticks) > 1 else abs(ticks[0] * factor) or 1.0
    largest = max(abs(tick) for tick in ticks) * factor
    unit, suffix = next(((u, s) for u, s in ((1e9, "B"), (1e6, "M"), (1e4, "k")) if largest >= u), (1.0, ""))
    unit = 1e3 if suffix == "k" else unit
    decimals = _decimals(step / unit)
    suffix = f"{suffix} %" if is_share else suffix

    def write(value: float) -> str:
        value = value * factor / unit
        if abs(value) < step / unit / 1e6:
            return "0 %" if is_share else "0"
        small = 0 < largest < 1e-3
        exponent = math.floor(math.log10(abs(value)) + 1e-9)
        text = f"{value / 10.0**exponent:.3g}e{exponent}" if small else f"{value:.{decimals}f}"
        return f"{text}{suffix}".replace("-", MINUS, 1) if text.startswith("-") else f"{text}{suffix}"

    return write


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points: the lowest and the highest of each stretch, and both ends."""
    if len(points) <= most:
        return list(points)
    inner, stretches = points[1:-1], (most - 2) // 2
    kept = []
    for index in range(stretches):
        stretch = inner[len(inner) * index // stretches : len(inner) * (index + 1) // stretches]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return [points[0], *kept, points[-1]]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A smooth curve: at each place the straight line through its neighbours, an eighth of all points.

    Local linear regression (Cleveland 1979) with equal weights; unlike a moving average it neither lags nor bends at
    the ends.
    """
    reach = max(2, len(points) // 16)
    places = range(0, len(points), max(1, len(points) // MAX_SMOOTHED))
    return [_fitted(points, place, reach) for place in sorted({*places, len(points) - 1})]


def _fitted(points: Sequence[Point], place: int, reach: int) -> Point:
    near = points[max(place - reach, 0) : place + reach + 1]
    x_mean, y_mean = sum(x for x, _ in near) / len(near), sum(y for _, y in near) / len(near)
    spread = sum((x - x_mean) ** 2 for x, _ in near)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in near) / spread if spread else 0.0
    x = points[place][0]
    return x, y_mean + slope * (x - x_mean)


def is_noisy(values: Sequence[float]) -> bool:
    """Whether a curve jumps so much from point to point that a smooth line helps."""
    if len(values) < SMOOTHED_FROM:
        return False
    off = [abs(b - (a + c) / 2) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return sum(off) / len(off) > NOISE * (max(values) - min(values))


def _padded(low: float, high: float) -> tuple[float, float]:
    """Bounds with a little room, but none below a zero that is the least there is; a constant runs in the middle."""
    room = (high - low) * 0.05
    if room <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def _step_axis(steps: Sequence[float], left: float) -> Axis:
    low, high = min(steps), max(steps)
    if high == low:
        low, high = low - 1, high + 1
    ticks = tuple(tick for tick in nice_ticks(low, high, 5) if tick == int(tick))
    return Axis(low, high, left, WIDTH - RIGHT, ticks)


def _grid(x_axis: Axis, y_axis: Axis, write: Callable[[float], str], left: float) -> list[Markup]:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.pixel(tick)
        kind = "zero" if tick == 0 and y_axis.low < 0 else "grid"
        parts.append(line.format(kind, left, y, WIDTH - RIGHT, y))
        parts.append(text.format(left - 6, y + 3.8, "end", write(tick)))
    for tick in x_axis.ticks:
        x = x_axis.pixel(tick)
        anchor = "end" if x > WIDTH - RIGHT - 10 else "middle"
        parts.append(line.format("notch", x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 4))
        parts.append(text.format(x, HEIGHT - BOTTOM + 16, anchor, f"{tick:,.0f}"))
    parts.append(line.format("axis", left, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    return parts


def _polyline(kind: str, points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> Markup:
    path = " ".join(f"{x_axis.pixel(x):.1f},{y_axis.pixel(y):.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, path)


def _data(points: Sequence[Point], x_axis: Axis) -> str:
    """Pixel, step and value of each point, for the page's script."""
    return " ".join(f"{x_axis.pixel(x):.1f},{x:.9g},{y:.5g}" for x, y in points)


def _decimals(step: float) -> int:
    """Decimals that it takes to write multiples of a step."""
    return next((n for n in range(12) if abs(round(step, n) - step) < step * 1e-6), 12)
