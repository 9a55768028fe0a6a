"""A plan as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.plan.report import PASSING, RunPlan, StagePlan
from pipelines.plan.t4 import GIB, Gpu


def as_text(plan: RunPlan) -> str:
    """The plan as tables."""
    base, gpu = plan.base, plan.gpu
    known = "" if base.architecture.known else ", reckoned as a llama: its layers were never counted"
    head = (
        f"{base.architecture.model_type}: {amount(base.architecture.parameters)} parameters, "
        f"{size(base.stored)} in {base.dtype}{known}\n"
        f"{plan.machine.processes} × {gpu.name}, {gpu.memory / GIB:.1f} GiB each; GiB on each:"
    )
    advice = [line for stage in plan.stages for line in _advice_lines(stage, gpu)]
    sustained = f"{gpu.utilisation:.0%} of the {gpu.flops / 1e12:.0f} TFLOPS that a {gpu.name} sustains"
    below = f"tokens/s over all GPUs, at {sustained}; estimates, nothing was measured"
    copies = [line for stage in plan.stages for line in _copy_lines(stage)]
    parts = [[head], aligned(_memory_rows(plan)), copies, advice, aligned(_work_rows(plan)), [below]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _memory_rows(plan: RunPlan) -> list[tuple[str, ...]]:
    names = ("weights", "adapters", "optimizer", *PASSING)
    rows: list[tuple[str, ...]] = [("stage", "rows", "length", *names, "CUDA", "in all", "at most in", "fits")]
    for stage in plan.stages:
        parts, batch = stage.memory.peak.parts, stage.memory.batch
        cuda = stage.total - stage.memory.peak.total
        shown = [_gib(parts.get(name, 0)) for name in names]
        fits = "yes" if stage.fits else "NO"
        rows.append(
            (
                stage.memory.stage,
                str(batch.rows),
                str(batch.length),
                *shown,
                _gib(cuda),
                _gib(stage.total),
                stage.memory.peak.name,
                fits,
            )
        )
    return rows


def _work_rows(plan: RunPlan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("stage", "trained", "tokens/s", "step", "all steps", "download", "upload")]
    for stage in plan.stages:
        speed = stage.speed
        rows.append(
            (
                stage.memory.stage,
                amount(stage.memory.parameters) if stage.memory.parameters else "–",
                f"{speed.tokens:,.0f}" if speed else "–",
                duration(speed.step) if speed else "–",
                duration(speed.seconds) if speed and speed.seconds else "–",
                size(stage.download),
                size(stage.upload),
            )
        )
    return rows


def _copy_lines(stage: StagePlan) -> list[str]:
    name, copied = stage.memory.stage, stage.memory.copied
    return [f"{name} keeps {_gib(copied)} GiB more in main memory for each process: merged_rollout"] if copied else []


def _advice_lines(stage: StagePlan, gpu: Gpu) -> list[str]:
    if stage.fits:
        return []
    name = stage.memory.stage
    if stage.advice is None:
        return [f"{name} does not fit {gpu.memory / GIB:.1f} GiB, whatever its settings: take a smaller model"]
    return [f"{name} fits, in {_gib(stage.advice.total)} GiB, with {' '.join(stage.advice.overrides)}"]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _gib(number: float) -> str:
    return f"{number / GIB:.2f}" if number else "–"


def size(number: float) -> str:
    """Bytes for people."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number:.0f} B" if number else "–"


def amount(number: float) -> str:
    """A number of parameters for people."""
    for unit, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
