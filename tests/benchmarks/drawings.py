"""What the comparisons of PPO share beyond the harness: runs that report for themselves, and drawings of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import ROOT


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with the tree on the import path and the hub out of bounds."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": str(ROOT),
        **changes,
    }


def resident_mb(name: str = "VmHWM") -> float:
    """This process's resident memory: `VmHWM` is the most it ever had, `VmRSS` what it has now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def child(script: str, *arguments: str, python: str = sys.executable, **changes: str) -> dict[str, Any]:
    """Runs a benchmark's script in a process of its own; the last line it prints is its result, as JSON."""
    command = [python, script, *arguments]
    done = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def medians(runs: Sequence[Mapping[str, float]], fields: Sequence[str]) -> dict[str, float]:
    """The median of each field over runs."""
    return {field: statistics.median(run[field] for run in runs) for field in fields}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)) + "\n"


def bar_chart(title: str, bars: Mapping[str, Sequence[float]], unit: str) -> str:
    """Horizontal bars in SVG: the median of each contestant's runs, a whisker from the least to the most.

    Args:
        title: Above the bars.
        bars: The runs of each contestant.
        unit: After each median.
    """
    left, width, height = 190, 420, 34
    largest = max(max(runs) for runs in bars.values())
    parts = [f'<text x="8" y="22" font-weight="bold">{title}</text>']
    for index, (name, runs) in enumerate(bars.items()):
        middle = 52 + index * height
        median, low, high = (f(runs) / largest * width for f in (statistics.median, min, max))
        fill = "#2a6f97" if index == 0 else "#a9a9a9"
        parts += [
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{name}</text>',
            f'<rect x="{left}" y="{middle - 10}" width="{median:.1f}" height="20" fill="{fill}"/>',
            f'<line x1="{left + low:.1f}" x2="{left + high:.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>',
            f'<text x="{left + high + 6:.1f}" y="{middle + 4}">{statistics.median(runs):.4g} {unit}</text>',
        ]
    size = f'width="{left + width + 110}" height="{52 + len(bars) * height}"'
    return svg(size, parts)


def line_chart(title: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Curves over steps in SVG, each named at its end.

    Args:
        title: Above the curves.
        curves: Values by step, from step 1.
    """
    width, height, left, top = 460, 220, 50, 36
    values = [value for curve in curves.values() for value in curve]
    low, high = min(values), max(values)
    longest = max(map(len, curves.values()))
    parts = [f'<text x="8" y="22" font-weight="bold">{title}</text>']
    for value in (low, high):
        y = top + (high - value) / (high - low or 1) * height
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for index, (name, curve) in enumerate(curves.items()):
        colour = ("#2a6f97", "#c8553d", "#8a8a8a", "#588157")[index % 4]
        xy = [
            (left + i / max(longest - 1, 1) * width, top + (high - v) / (high - low or 1) * height)
            for i, v in enumerate(curve)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in xy)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{left + width + 6}" y="{top + 12 + 16 * index}" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{left + width}" y="{top + height + 18}" text-anchor="end">step {longest}</text>')
    return svg(f'width="{left + width + 190}" height="{top + height + 28}"', parts)


def svg(size: str, parts: Sequence[str]) -> str:
    """A drawing from its parts."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return f"{head}{''.join(parts)}</svg>\n"


def write_output(folder: Path, name: str, report: str, data: Mapping[str, Any], drawings: Mapping[str, str]) -> None:
    """Writes a comparison as NAME.md with its drawings, and all that was measured as NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for drawing, text in drawings.items():
        (folder / f"{name}-{drawing}.svg").write_text(text, encoding="utf-8")
    images = "".join(f"\n![{drawing}]({name}-{drawing}.svg)\n" for drawing in drawings)
    (folder / f"{name}.md").write_text(report + images, encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
