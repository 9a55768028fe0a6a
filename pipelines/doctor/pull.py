"""Trying whether images can be pulled: a Job for each, which prints its help and ends."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from components.launcher.cluster import JOBS, PODS, ApiError, Cluster
from components.launcher.config import LauncherConfig, Resources
from components.launcher.job import LABEL_RUN, StageJob, stage_job
from components.launcher.objects import to_job
from components.launcher.reasons import NOT_PULLED
from pipelines.doctor.finding import Finding

PULL_SECONDS = 600.0


def check_pull(cluster: Cluster, steps: Sequence[str], root: str, config: LauncherConfig) -> Iterator[Finding]:
    """Starts every image once.

    Args:
        cluster: The cluster.
        steps: Steps whose images are tried.
        root: The store's root, for the pods' environment.
        config: Says the images' names.
    """
    run = f"doctor-{secrets.token_hex(4)}"
    by_image = {job.image: job for job in (_probe(run, step, root, config) for step in steps)}
    jobs = list(by_image.values())
    try:
        for job in jobs:
            cluster.create(JOBS, _object(job))
        for job in jobs:
            yield _await(cluster, job, time.monotonic() + PULL_SECONDS)
    except ApiError as error:
        yield Finding("pull", "failed", f"a Job is refused: {error}", "see the findings on rights and quota")
    finally:
        for job in jobs:
            cluster.delete(JOBS, job.name)


def _probe(run: str, step: str, root: str, config: LauncherConfig) -> StageJob:
    job = stage_job(run, step, "pull", ["--help"], root, config, cluster=True)
    small = Resources(cpu="100m", memory="256Mi")
    return replace(job, processes=1, gpus_per_node=0, nodes=1, resources=small)


def _object(job: StageJob) -> dict[str, Any]:
    made = to_job(job)
    made["spec"]["template"]["spec"]["restartPolicy"] = "Never"  # a training pod's own is one that no Job may have
    return made


def _await(cluster: Cluster, job: StageJob, until: float) -> Finding:
    """Waits until a probe's container has run, or its image was refused."""
    name = f"pull {job.stage}"
    while time.monotonic() < until:
        labels = {LABEL_RUN: job.run, "job-name": job.name}
        for pod in cluster.list(PODS, labels):
            for status in pod["status"].get("containerStatuses", []):
                waiting = status["state"].get("waiting") or {}
                if waiting.get("reason") in NOT_PULLED:
                    remedy = "check RLHF_REGISTRY and RLHF_VERSION, or give launcher.image_pull_secrets"
                    return Finding(name, "failed", f"{job.image}: {waiting.get('message', waiting['reason'])}", remedy)
                if not waiting:
                    return Finding(name, "ok", job.image)
        time.sleep(1)
    remedy = f"kubectl -n {cluster.namespace} describe job {job.name}"
    return Finding(name, "failed", f"{job.image} did not start in {PULL_SECONDS:.0f} s", remedy)
