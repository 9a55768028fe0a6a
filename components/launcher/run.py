"""Where a step runs: here, or on a cluster.

`RLHF_LAUNCHER` is `local` or `kubernetes`: `rlhf run --on kubernetes` and the pipeline's pods set it. With kubernetes,
training and evaluation become PyTorchJobs. The other steps become Jobs with `RLHF_CPU_STEPS=job`, where this process is
on a laptop, and run in this process's own pod with `here`.
"""

from __future__ import annotations

import os

from components.common.errors import UserError
from components.launcher.job import GPU_STAGES, StageJob
from components.launcher.process import run_here


def runs_on_cluster(stage: str) -> bool:
    """Whether a step runs as a job of a cluster.

    Raises:
        UserError: A variable has none of its values.
    """
    launcher, cpu_steps = _choice("RLHF_LAUNCHER", "local", "kubernetes"), _choice("RLHF_CPU_STEPS", "here", "job")
    return launcher == "kubernetes" and (stage in GPU_STAGES or cpu_steps == "job")


def run_job(job: StageJob) -> None:
    """Runs a step where it belongs.

    Raises:
        RlhfError: It failed.
    """
    if runs_on_cluster(job.stage):
        from components.launcher.cluster_run import run_on_cluster

        run_on_cluster(job)
    else:
        run_here(job)


def variable(name: str) -> str:
    """A variable that says where a run belongs; guessing it would mix runs up.

    Raises:
        UserError: It is not set.
    """
    if not os.environ.get(name):
        raise UserError("is not set", where=name, hint="start the run with `rlhf run`, or set it in the step's pod")
    return os.environ[name]


def _choice(name: str, default: str, other: str) -> str:
    value = os.environ.get(name) or default
    if value not in (default, other):
        raise UserError(f"is {value!r}", where=name, hint=f"{default} or {other}")
    return value
