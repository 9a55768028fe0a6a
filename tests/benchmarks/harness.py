"""What the benchmarks share: processes that take turns, what each costs, medians, a table and a plot.

Every run is a process tree of its own, and the contestants take turns, so that a busy machine disturbs all of them
alike. CPU time hardly depends on what else runs, wall time does. Memory is the largest sum over the process tree of
anonymous memory: what a pod's limit has to hold, without the page cache.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from tests.benchmarks.goals import Goal, require

ROOT = Path(__file__).parents[2]
Figures = dict[str, float]
Result = TypeVar("Result", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Cost:
    """What one process tree used."""

    wall_s: float
    cpu_s: float
    anonymous_mb: float


@dataclass(frozen=True)
class Table:
    """Runs of the contestants, of which the first is the one that ratios refer to.

    Attributes:
        title: What was compared.
        runs: Figures of each run by contestant.
        higher_is_better: Names of the figures of which more is better; of the others less is.
        plotted: The figure that the plot shows.
        notes: What a reader must know, one sentence each.
        goals: What it has to show.
    """

    title: str
    runs: Mapping[str, Sequence[Figures]]
    plotted: str
    higher_is_better: Sequence[str] = ()
    notes: Sequence[str] = ()
    goals: Sequence[Goal] = ()

    def median(self, name: str, figure: str) -> float:
        return statistics.median(run[figure] for run in self.runs[name])

    def ratio(self, name: str, figure: str) -> float:
        """How many times better than the first contestant."""
        first, own = self.median(next(iter(self.runs)), figure), self.median(name, figure)
        better, worse = (own, first) if figure in self.higher_is_better else (first, own)
        return better / worse if worse else float("nan")

    @property
    def figures(self) -> list[str]:
        return list(next(iter(self.runs.values()))[0])

    def markdown(self) -> str:
        counts = {len(runs) for runs in self.runs.values()}
        head = ["", *self.figures, *(f"{figure} ×" for figure in self.figures)]
        lines = [f"## {self.title}", "", _row(head), _row(["---", *["--:"] * (len(head) - 1)])]
        for name in self.runs:
            medians = [f"{self.median(name, figure):.4g}" for figure in self.figures]
            lines.append(_row([name, *medians, *(f"{self.ratio(name, figure):.2f}" for figure in self.figures)]))
        notes = [f"Medians of {max(counts)} runs; × is how many times better than the first row.", *self.notes]
        return "\n".join([*lines, "", *notes, "", *(f"- {goal}" for goal in self.goals), ""])

    def as_json(self) -> dict[str, object]:
        medians = {name: {figure: self.median(name, figure) for figure in self.figures} for name in self.runs}
        return {"title": self.title, "runs": {n: list(r) for n, r in self.runs.items()}, "medians": medians}

    def svg(self, top: int) -> str:
        """A bar for each contestant's median and a dot for each run, drawn from `top` downwards."""
        largest = max(run[self.plotted] for runs in self.runs.values() for run in runs)
        parts = [f'<text x="0" y="{top + 14}" class="title">{escape(self.title)}: {escape(self.plotted)}</text>']
        for index, (name, runs) in enumerate(self.runs.items()):
            y, median = top + 26 + 26 * index, self.median(name, self.plotted)
            parts.append(f'<text x="214" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="220" y="{y}" width="{400 * median / largest:.1f}" height="18" class="bar"/>')
            dots = (f'<circle cx="{220 + 400 * run[self.plotted] / largest:.1f}" cy="{y + 9}" r="3"/>' for run in runs)
            parts += [*dots, f'<text x="632" y="{y + 13}">{median:.4g}</text>']
        return "\n".join(parts)

    @property
    def height(self) -> int:
        return 44 + 26 * len(self.runs)


def measure(command: Sequence[str], **environment: str) -> Cost:
    """Runs a command to its end; its output is shown only if it fails."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    with subprocess.Popen(
        command, env=variables | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        peak, output = 0, b""
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            output += process.stdout.read() or b""
            if pid:
                break
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{output.decode(errors='replace')[-8000:]}")
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, peak / 2**20)


def anonymous_memory(pid: int) -> int:
    """Anonymous memory of a process and all its children, in bytes; 0 for one that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))
    return own + sum(anonymous_memory(int(child)) for child in children)


def take_turns(contestants: Mapping[str, Callable[[int], Result]], runs: int) -> dict[str, list[Result]]:
    """Lets each contestant run once, then each again, and so on; tells every run's figures as it ends.

    Args:
        contestants: By name; called with the number of the run, from 0.
        runs: How often.
    """
    results: dict[str, list[Result]] = {name: [] for name in contestants}
    for number in range(runs):
        for name, contestant in contestants.items():
            result = contestant(number)
            results[name].append(result)
            shown = {name: round(value, 4) for name, value in result.items() if isinstance(value, (int, float))}
            print(f"run {number + 1} {name}: {json.dumps(shown)}", file=sys.stderr, flush=True)
    return results


def write_results(output: Path | None, name: str, tables: Sequence[Table]) -> None:
    """Prints the tables, and writes them as name.md, name.json and name.svg into a folder.

    Raises:
        SystemExit: A goal is missed.
    """
    print("\n".join(table.markdown() for table in tables))
    if output is not None:
        _write_files(output, name, tables)
    require(goal for table in tables for goal in table.goals)


def _write_files(output: Path, name: str, tables: Sequence[Table]) -> None:
    text = "\n".join(table.markdown() for table in tables)
    output.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    (output / f"{name}.md").write_text(f"{text}\nMeasured on {machine}.\n", encoding="utf-8")
    results = {"machine": machine, "tables": [table.as_json() for table in tables]}
    (output / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    tops = [sum(table.height for table in tables[:index]) for index in range(len(tables) + 1)]
    drawn = "\n".join(table.svg(top) for table, top in zip(tables, tops, strict=False))
    style = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}.bar{fill:#9ec1e6}circle{fill:#1f5d99}"
    (output / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 708 {tops[-1]}"><style>{style}</style>\n'
        f'<rect x="-8" width="708" height="{tops[-1]}" fill="#fff"/>\n{drawn}\n</svg>\n',
        encoding="utf-8",
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
