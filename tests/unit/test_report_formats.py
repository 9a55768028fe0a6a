"""Numbers, times and configuration as the report writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.report import formats
from components.report.collect import collect
from components.report.metrics import describe
from components.report.page import total_seconds, yaml_lines
from components.report.verdict import judge
from tests.support.report_run import SECONDS, make_run


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.number(4.9021), "4.90"),
        (formats.number(25.683), "25.7"),
        (formats.number(513.27), "513"),
        (formats.number(1394.2), "1,394"),
        (formats.number(-0.0042876), "−0.00429"),
        (formats.number(0.9996), "1.00"),
        (formats.number(4.7e-7), "4.7e-7"),
        (formats.number(0), "0"),
        (formats.percent(0.9602), "96.0 %"),
        (formats.percent(1.0), "100 %"),
        (formats.count(139_584), "139,584"),
        (formats.count(134_515_008), "134.5 M"),
        (formats.rate(2e-4), "2e-4"),
        (formats.rate(0.004), "0.004"),
        (formats.size(558_336), "545 KiB"),
        (formats.duration(0.746), "0.7 s"),
        (formats.duration(59.97), "1 min 00 s"),
        (formats.duration(167.44), "2 min 47 s"),
        (formats.duration(3840), "1 h 04 min"),
        (formats.when(1795517303.3), "24 Nov 2026, 10:48 UTC"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_two_values_have_the_digits_that_tell_them_apart() -> None:
    assert describe("loss").show_pair(3.20061, 3.20449) == ("3.201", "3.204")
    assert describe("loss").show_pair(2.0, 2.0) == ("2.00", "2.00")
    assert describe("accuracy").show_pair(0.50001, 0.50049) == ("50.00 %", "50.05 %")


def test_configuration_keys_are_told_from_values() -> None:
    assert yaml_lines("a:\n  b: x: y\n- path: p\n- q") == [
        ("a:", ""),
        ("  b:", " x: y"),
        ("- path:", " p"),
        ("", "- q"),
    ]


def test_total_time_leaves_the_report_out(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    made.record("report", state="failed", seconds=500.0, error={"code": 1, "reason": "an earlier attempt"})
    run = collect(made.config_uri)
    assert total_seconds(run) == pytest.approx(sum(SECONDS.values()) + 4 * 0.9, abs=1e-3)
    assert judge(run).tone == "good"
