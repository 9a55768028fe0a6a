"""A step as something that can be run: here as a process, on a cluster as a job."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.common.errors import UserError
from components.common.flows import TRAINING_STAGES
from components.images import image_of
from components.launcher.config import LauncherConfig, Resources
from components.launcher.placement import Placement, placement_of

GPU_STAGES = (*TRAINING_STAGES, "evaluate")
STEP = "rlhf-stack/step"  # an annotation
LABEL_RUN, LABEL_STAGE, LABEL_KEY = "rlhf-stack/run", "rlhf-stack/stage", "rlhf-stack/key"

TRAINING_RESOURCES = Resources(cpu="4", memory="48Gi")
_CPU = Resources(cpu="1", memory="8Gi")


@dataclass(frozen=True)
class StageJob:
    """A step of a run.

    Attributes:
        run: The run's id.
        stage: The stage, or prepare, data, merge, report.
        key: Of the stage's result; for a step without one, of what it is asked.
        step: The step's name; a run has several merges.
        module: `python -m` runs it.
        arguments: Its command line, without the numbers of nodes and processes.
        root: Root of the run's store.
        output: URI of the artifact that it makes, if it makes one.
        reads: Folders that it reads, as URIs or paths below the store's root.
        writes: Folders that it writes, the same; empty: it gets the configured credentials.
        environment: Added to the environment that it runs in.
        image: Container image.
        nodes: Pods.
        processes: Training processes in each.
        gpus_per_node: GPUs that each pod asks for.
        resources: What each pod asks for besides.
        placement: Where its pods may run.
        secret: Name of the Secret with temporary keys to the store; empty: it gets the configured ones.
        config: Everything else.
    """

    run: str
    stage: str
    key: str
    module: str
    arguments: tuple[str, ...]
    root: str
    step: str = ""
    output: str = ""
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    nodes: int = 1
    processes: int = 1
    gpus_per_node: int = 0
    resources: Resources = field(default_factory=Resources)
    placement: Placement = field(default_factory=Placement)
    secret: str = ""
    config: LauncherConfig = field(default_factory=LauncherConfig)

    @property
    def is_training(self) -> bool:
        """Whether it is a PyTorchJob on a cluster; the others are plain Jobs."""
        return self.stage in GPU_STAGES

    @property
    def name(self) -> str:
        """Name of the job: the same for the same step of the same run. At most 40 characters."""
        identity = f"{self.run}/{self.stage}/{self.key}"
        return f"rlhf-{self.stage}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    @property
    def title(self) -> str:
        """What the step is called in lines and messages."""
        return self.step or self.stage

    @property
    def labels(self) -> dict[str, str]:
        """By which people and the launcher find the job and its pods."""
        return {LABEL_RUN: self.run, LABEL_STAGE: self.stage, LABEL_KEY: self.key}

    @property
    def work(self) -> str:
        """Prefix of the folder that this run of the stage writes while it works."""
        return f"work/{self.stage}/{self.key}/{self.run}"

    @property
    def command(self) -> list[str]:
        """The container's command line."""
        return ["python", "-m", self.module, *self.arguments, *self.processes_arguments]

    @property
    def processes_arguments(self) -> list[str]:
        """What the command line says of processes and nodes."""
        if not self.is_training:
            return []
        return [f"--nproc={self.processes}", *([f"--nnodes={self.nodes}"] if self.nodes > 1 else [])]


def stage_job(
    run: str,
    stage: str,
    key: str,
    arguments: Sequence[str],
    root: str,
    config: LauncherConfig,
    *,
    cluster: bool,
    step: str = "",
    output: str = "",
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> StageJob:
    """A step as the configuration wants it run.

    Args:
        run: The run's id.
        stage: The stage, or prepare, data, report.
        key: Of its result; empty: the hash of its arguments.
        arguments: Command line of `components.<stage>`, without numbers of nodes and processes.
        root: Root of the run's store.
        config: The run's section `launcher`.
        cluster: Whether it runs on a cluster.
        step: Its name, if that is not the stage's.
        output: URI of the artifact that it makes.
        reads: Folders that it reads, as URIs or paths below the root.
        writes: Folders that it writes, the same.
    """
    training = stage in GPU_STAGES
    gpus = config.gpus_per_node if training and cluster else 0
    return StageJob(
        run=run,
        stage=stage,
        key=key or hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16],
        module=f"components.{stage}",
        arguments=tuple(arguments),
        root=root,
        step=step,
        output=output,
        reads=tuple(reads),
        writes=tuple(writes),
        image=config.images.get(stage) or image_of(stage),
        nodes=config.nodes if training and cluster else 1,
        processes=(gpus or config.nproc_per_node) if training else 1,
        gpus_per_node=gpus,
        resources=resources_of(stage, config),
        placement=placement_of(config, gpus=gpus > 0),
        config=config,
    )


def resources_of(stage: str, config: LauncherConfig) -> Resources:
    """What a step's pod asks for: as configured for the step, else for its kind, else by default."""
    kind, default = ("training", TRAINING_RESOURCES) if stage in GPU_STAGES else ("cpu", _CPU)
    layers = (config.resources.get(stage, Resources()), config.resources.get(kind, Resources()), default)
    return Resources(
        **{name: next(filter(None, (getattr(layer, name) for layer in layers)), "") for name in Resources.model_fields}
    )


def check_label(run: str) -> str:
    """A run's id, if Kubernetes takes it as a label.

    Raises:
        UserError: It does not.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", run, re.ASCII):
        raise UserError(
            "is no label for Kubernetes", where=f"--run-id {run}", hint="begin and end with an ASCII letter or digit"
        )
    return run
