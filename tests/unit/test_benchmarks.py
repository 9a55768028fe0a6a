"""The benchmarks run, and say so when what they have to show is not there."""

import importlib
import json
from pathlib import Path

import pytest

from tests.benchmarks.goals import Goal, require
from tests.benchmarks.harness import Table, take_turns, write_results
from tests.support.commands import ROOT, python

NAMES = sorted(path.stem for path in (ROOT / "tests/benchmarks").glob("bench_*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_started(name):
    importlib.import_module(f"tests.benchmarks.{name}")
    result = python("-m", f"tests.benchmarks.{name}", "--help")
    assert result.returncode == 0, result.stderr
    assert "--output" in result.stdout


def test_ppo_on_one_base_and_on_four_models_is_compared(tmp_path):
    """With models so small that memory is the libraries'; the metrics are to be the same bit by bit all the same."""
    result = python("-m", "tests.benchmarks.bench_ppo", "--size=tiny", "--runs=1", f"--output={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "different metrics: 1 (at most 1): met" in result.stdout
    runs = json.loads((tmp_path / "ppo-tiny.json").read_text())["runs"]
    assert runs["one base"][0]["metrics"] == runs["four models"][0]["metrics"]
    assert runs["one base"][0]["beyond_imports_mb"] < runs["four models"][0]["beyond_imports_mb"]


def test_contestants_take_turns():
    order = []
    contestants = {name: lambda number, name=name: order.append((name, number)) or {"wall_s": 1.0} for name in "ab"}
    assert take_turns(contestants, 2) == {"a": [{"wall_s": 1.0}] * 2, "b": [{"wall_s": 1.0}] * 2}
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_a_missed_goal_is_told_and_ends_the_benchmark(tmp_path: Path, capsys):
    runs = {"theirs": [{"wall_s": 3.0}], "ours": [{"wall_s": 2.0}]}
    ratio = Table("t", runs, plotted="wall_s").ratio("ours", "wall_s")
    goals = [Goal("times as fast", ratio, at_least=1.5), Goal("seconds", 2.0, at_most=1.9)]
    with pytest.raises(SystemExit, match=r"^seconds: 2 \(at most 1.9\): MISSED$"):
        write_results(tmp_path, "t", [Table("t", runs, plotted="wall_s", goals=goals)])
    assert "times as fast: 1.5 (at least 1.5): met" in capsys.readouterr().out
    assert "MISSED" in (tmp_path / "t.md").read_text()
    require(goals[:1])
