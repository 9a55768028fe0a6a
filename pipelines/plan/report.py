"""A plan of all stages: memory, speed, transfers, advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.common.flows import flow_stages
from components.common.store import local_path
from components.data.config import READERS
from components.data.records import Task
from components.prepare.config import RunConfig
from pipelines.plan.activations import FLOAT32
from pipelines.plan.advice import Advice, advise
from pipelines.plan.base import Base
from pipelines.plan.speed import Speed, stage_speed
from pipelines.plan.stages import Machine, Moment, StageMemory, stage_memory
from pipelines.plan.t4 import Gpu

PASSING = ("activations", "logits", "cache")  # what comes and goes, of which the allocator wastes some
MARGIN = 0.97  # of the memory, that advice leaves nothing to chance
CHECKPOINT = 3  # an adapter and its two moments


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        memory: What it holds on a GPU.
        total: Bytes at its largest moment, with what CUDA takes.
        fits: Whether that is there.
        advice: What would make it fit; None if it fits, or nothing would.
        speed: How fast it trains.
        download: Bytes that its pods fetch beside the dataset.
        upload: Bytes that it writes, checkpoints included.
    """

    memory: StageMemory
    total: float
    fits: bool
    advice: Advice | None
    speed: Speed | None
    download: int
    upload: int


@dataclass(frozen=True)
class RunPlan:
    """A run: its base, the machine it is for, and its stages in order."""

    base: Base
    machine: Machine
    gpu: Gpu
    stages: tuple[StagePlan, ...]
    sources: int

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return all(stage.fits for stage in self.stages)


def plan_run(base: Base, config: RunConfig, pipeline: str, gpu: Gpu) -> RunPlan:
    """Plans the stages of a pipeline that are on.

    Args:
        base: The base model.
        config: The run's configuration.
        pipeline: Its name.
        gpu: What each process has.
    """
    launcher = config.launcher
    machine = Machine(launcher.nodes * (launcher.gpus_per_node or launcher.nproc_per_node))
    names = [name for name in (*flow_stages(pipeline), "evaluate") if getattr(config, name).enabled]
    stages = tuple(plan_stage(name, base, config, machine, gpu) for name in names)
    return RunPlan(base, machine, gpu, stages, _source_bytes(config))


def plan_stage(stage: str, base: Base, config: RunConfig, machine: Machine, gpu: Gpu) -> StagePlan:
    """Plans one stage."""
    model = base.architecture

    def total(changed: RunConfig) -> float:
        return on_gpu(stage_memory(stage, model, changed, machine).peak, gpu)

    memory = stage_memory(stage, model, config, machine)
    taken = on_gpu(memory.peak, gpu)
    fits = taken <= gpu.memory
    advice = None if fits else advise(stage, config, total, MARGIN * gpu.memory)
    download, upload = transfers(stage, base, config, memory)
    return StagePlan(memory, taken, fits, advice, stage_speed(stage, model, config, machine, gpu), download, upload)


def on_gpu(moment: Moment, gpu: Gpu) -> float:
    """Bytes of a GPU that a moment takes."""
    passing = sum(moment.parts.get(name, 0) for name in PASSING)
    return moment.total + gpu.context + gpu.slack * passing


def transfers(stage: str, base: Base, config: RunConfig, memory: StageMemory) -> tuple[int, int]:
    """Bytes that a stage fetches and writes."""
    if stage == "evaluate":
        return 3 * base.stored, 0  # the final model, the one before, the merged reward model
    section: Any = getattr(config, stage)
    full = getattr(section, "lora", ...) is None
    weights = FLOAT32 * memory.parameters
    judge = (
        FLOAT32 * base.architecture.lora_parameters(config.reward.lora.r) if stage == "rl" and config.reward.lora else 0
    )
    kept = section.save_total_limit if section.max_steps < 0 else -(-section.max_steps // section.save_steps)
    result = base.stored if full else weights // (2 if stage == "rl" and section.algorithm == "ppo" else 1)
    return base.stored + judge, result + kept * CHECKPOINT * weights


def _source_bytes(config: RunConfig) -> int:
    """Bytes of the sources that lie on this machine."""
    tasks: list[Task] = [task for task in READERS if getattr(config.data, task).sources]
    paths = [local_path(source.path) for task in tasks for source in getattr(config.data, task).sources]
    return sum(file.stat().st_size for path in paths for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())


def as_dict(plan: RunPlan) -> dict[str, Any]:
    """The plan as plain data, in bytes, tokens and seconds."""
    return {
        "model": {
            **asdict(plan.base.architecture),
            "parameters": plan.base.architecture.parameters,
            "dtype": plan.base.dtype,
        },
        "gpu": asdict(plan.gpu),
        "processes": plan.machine.processes,
        "fits": plan.fits,
        "sources": plan.sources,
        "stages": [_stage_dict(stage, plan) for stage in plan.stages],
    }


def _stage_dict(stage: StagePlan, plan: RunPlan) -> dict[str, Any]:
    return {
        "stage": stage.memory.stage,
        "rows": stage.memory.batch.rows,
        "length": stage.memory.batch.length,
        "peak": stage.memory.peak.name,
        "parts": dict(stage.memory.peak.parts),
        "moments": {moment.name: on_gpu(moment, plan.gpu) for moment in stage.memory.moments},
        "total": stage.total,
        "fits": stage.fits,
        "advice": asdict(stage.advice) if stage.advice else None,
        "trained_parameters": stage.memory.parameters,
        "main_memory_copies": stage.memory.copied,
        "speed": asdict(stage.speed) if stage.speed else None,
        "download": stage.download,
        "upload": stage.upload,
    }
