"""How steps are run. Nothing here can change a result, so no key depends on it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from components.common.config import Config
from components.names import SECRET

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: Any) -> Any:
    """Reads `90`, `90s`, `15m`, `6h` or `2d` as seconds."""
    found = re.fullmatch(r"(\d+)([smhd]?)", value.strip()) if isinstance(value, str) else None
    return int(found[1]) * _UNITS[found[2] or "s"] if found else value


Seconds = Annotated[int, BeforeValidator(_seconds), Field(ge=1)]
Quantity = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, (int, float)) else value)]


class Resources(Config):
    """What a pod asks for; empty: as for the other steps of its kind."""

    cpu: Quantity = Field("", description="cores that are kept free for it; it may use more")
    memory: Quantity = Field("", description="memory that is kept free for it, and its limit")
    ephemeral_storage: Quantity = Field("", description="disk for its scratch files: inputs and result of the step")


class StoreAccess(Config):
    """How pods reach an S3 store."""

    endpoint_url: str = Field("", description="as pods see it; empty: AWS_ENDPOINT_URL of the ConfigMap rlhf-stack")
    secret: str = Field(SECRET, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


class LauncherConfig(Config):
    """Processes, pods and retries of the steps. All but the two first are for a cluster."""

    nproc_per_node: int = Field(1, ge=1, description="training processes, where no GPUs are asked for")
    omp_num_threads: int | None = Field(
        None, ge=1, description="threads of a training process; by default the machine's cores shared by the processes"
    )
    namespace: str = Field("", description="of the jobs; empty: the launcher's own, or the kubeconfig context's")
    nodes: int = Field(1, ge=1, description="pods of a training job")
    gpus_per_node: int = Field(4, ge=0, description="GPUs of each training pod, a process for each; 0: none, on CPUs")
    images: dict[str, str] = Field({}, description="image of a step by its name, in place of $RLHF_REGISTRY's")
    resources: dict[str, Resources] = Field(
        {}, description="by step; `training` and `cpu` stand for all steps of that kind"
    )
    placement: Literal["", "gke", "eks", "aks", "gpu-operator"] = Field(
        "", description="named node selector and tolerations for T4 nodes (components/launcher/placements)"
    )
    node_selector: dict[str, str] = Field({}, description="of training pods, on top of the placement's")
    tolerations: list[dict[str, Any]] = Field([], description="of all pods, on top of the placement's")
    volumes: list[dict[str, Any]] = Field([], description="as Kubernetes spells them; of all pods")
    volume_mounts: list[dict[str, Any]] = Field([], description="as Kubernetes spells them")
    env: dict[str, str] = Field({}, description="environment variables of all pods")
    image_pull_secrets: list[str] = Field([], description="Secrets with registries' credentials")
    priority_class_name: str = ""
    queue_name: str = Field("", description="Kueue LocalQueue of the training jobs")
    shm_size: Quantity = Field("8Gi", description="/dev/shm of a training pod; counts against its memory")
    pending_timeout: Seconds = Field(1800, description="how long pods may wait for nodes and images, e.g. 30m")
    deadline: Seconds = Field(86400, description="how long a step may take, waiting included")
    stall_timeout: Seconds = Field(1800, description="how long a training step may go without a heartbeat")
    grace_period: Seconds = Field(120, description="from SIGTERM to SIGKILL, for a checkpoint")
    retries: int = Field(3, ge=0, description="how often a step that may succeed later is started again")
    keep_jobs: bool = Field(False, description="leave finished jobs for a day, for a look at them")
    store: StoreAccess = StoreAccess()
