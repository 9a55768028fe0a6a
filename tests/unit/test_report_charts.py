"""The report's charts: inside their frame, at the values that their axes say, smooth where a curve is noisy."""

from __future__ import annotations

import math
import random

import pytest

from components.report.charts import is_noisy, line_chart, nice_ticks, smoothed, thin, tick_writer
from components.report.metrics import describe
from tests.support.report_page import Page


def test_no_point_no_chart() -> None:
    assert line_chart([], describe("loss")) == ""
    assert line_chart([(1, math.nan), (2, math.inf)], describe("loss")) == ""


@pytest.mark.parametrize(
    "points",
    [
        [(5, 1.0)],
        [(1, 0.05), (2, 0.05), (3, 0.05)],
        [(1, 0.0), (2, 0.0)],
        [(1, 1.0), (2, math.nan), (3, 2.0)],
        [(1, -3.0), (2, 1e9)],
        [(1, 1e-9), (2, 2e-9)],
        [(1, 0.693147), (2, 0.693148)],
        [(step, math.sin(step) * step) for step in range(1, 5000)],
    ],
)
def test_charts_stay_inside_their_frame(points: list[tuple[float, float]]) -> None:
    chart = Page(line_chart(points, describe("margin")))
    (svg,) = chart.all("svg")
    _, _, width, height = map(float, str(svg["viewbox"]).split())
    places = [tuple(map(float, place.split(","))) for a in chart.all("polyline") for place in str(a["points"]).split()]

    assert places
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert "nan" not in str(line_chart(points, describe("margin"))).lower()
    labels = [data for tag, data in chart.texts if tag == "text"]
    assert len(labels) == len(chart.all("text")) >= 2
    assert len(chart.all("circle", "end")) == 1
    assert len(str(svg["data-points"]).split()) <= 600


def test_a_value_is_drawn_where_its_axis_says() -> None:
    chart = Page(line_chart([(1000, 0.0), (2000, 10.0)], describe("margin")))
    ticks = {data: float(str(a["y"])) - 3.8 for (_, data), a in zip(chart.texts, chart.all("text"), strict=True)}
    (line,) = chart.all("polyline", "raw")
    (_, first), (_, last) = (map(float, place.split(",")) for place in str(line["points"]).split())

    assert first == pytest.approx(ticks["0"], abs=0.11)
    assert last == pytest.approx(ticks["10.0"], abs=0.11)


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.2, 0.8, ["−0.2", "0", "0.2", "0.4", "0.6", "0.8"]),
        (0.6931, 0.6943, ["0.69325", "0.69350", "0.69375", "0.69400", "0.69425"]),
        (0.0, 4.1e-4, ["0", "1e-4", "2e-4", "3e-4", "4e-4"]),
        (0.0, 21000.0, ["0", "5k", "10k", "15k", "20k"]),
        (0.0, 3.2e6, ["0", "1M", "2M", "3M"]),
    ],
)
def test_ticks_are_round_and_written_alike(low: float, high: float, written: list[str]) -> None:
    ticks = nice_ticks(low, high, 5)
    write = tick_writer(ticks)
    assert [write(tick) for tick in ticks] == written


def test_shares_have_ticks_in_per_cent() -> None:
    ticks = nice_ticks(0.55, 1.0, 5)
    assert [tick_writer(ticks, is_share=True)(tick) for tick in ticks] == ["60 %", "70 %", "80 %", "90 %", "100 %"]


def test_thinning_keeps_spikes_and_ends() -> None:
    points = [(float(step), 0.0) for step in range(10_000)]
    points[4321] = (4321.0, 9.0)
    points[8765] = (8765.0, -9.0)
    kept = thin(points, 600)

    assert len(kept) <= 600
    assert {points[0], points[4321], points[8765], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:600], 600) == points[:600]


def test_smoothing_neither_lags_nor_bends_at_the_ends() -> None:
    line = [(float(step), 3.0 - 0.5 * step) for step in range(100)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    rng = random.Random(0)
    noisy = [(x, y + rng.gauss(0, 1)) for x, y in line]
    off = [abs(smooth - y) for (_, smooth), (_, y) in zip(smoothed(noisy), line, strict=True)]
    assert sum(off) / len(off) < 0.4
    assert is_noisy([y + rng.gauss(0, 1) for y in [0.0] * 50])
    assert not is_noisy([y for _, y in line])


def test_a_noisy_curve_has_a_smooth_line_and_a_quiet_one_has_not() -> None:
    rng = random.Random(1)
    noisy = Page(line_chart([(step, rng.gauss(0, 1)) for step in range(200)], describe("reward")))
    quiet = Page(line_chart([(step, 1 / (1 + step)) for step in range(200)], describe("lr")))

    assert len(noisy.all("polyline", "smooth")) == len(noisy.all("polyline", "raw faint")) == 1
    assert not quiet.all("polyline", "smooth")
