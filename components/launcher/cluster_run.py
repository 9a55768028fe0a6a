"""Runs a step as a job of a cluster."""

from __future__ import annotations

import os

from components.common.artifacts import find_manifest
from components.common.errors import RlhfError
from components.common.inputs import split_uri
from components.common.logs import say
from components.common.store import open_store
from components.launcher.acquire import acquire, in_namespace, kind_of, remove
from components.launcher.cluster import Cluster
from components.launcher.connect import connect
from components.launcher.credentials import StoreKeys
from components.launcher.follow import Follower
from components.launcher.job import StageJob, check_label
from components.launcher.record import Run
from components.launcher.waits import StalledError


def run_on_cluster(job: StageJob) -> None:
    """Runs a step as a PyTorchJob or a Job, and hands its output on.

    A signal ends this process and leaves the job alone: eviction and drain send signals, too. The same call adopts the
    job.

    Raises:
        RlhfError: The step failed: with its own error if it left one, else with what the cluster says.
    """
    check_label(job.run)
    cluster = connect(os.environ.get("RLHF_NAMESPACE") or job.config.namespace)  # `rlhf run -n` wins
    job = in_namespace(job, cluster)
    for attempt in range(job.config.retries + 1):
        try:
            _run_once(cluster, job)
            return
        except StalledError as error:
            if attempt == job.config.retries:
                raise
            say(job.title, f"{error.what}: starts again from the last checkpoint")


def _run_once(cluster: Cluster, job: StageJob) -> None:
    run = Run(open_store(job.root), job.run)
    keys = StoreKeys(cluster, job)
    job = keys.give()
    try:
        made = acquire(cluster, job, lambda: is_committed(job))
    except RlhfError:
        keys.drop()
        raise
    keys.belong_to(made)
    if run.is_cancelled():  # after the job was made, so that one of the two sees the other
        cluster.delete(kind_of(job), job.name)
    follower = Follower(cluster, job, made, run.store, lambda: is_committed(job), run.is_cancelled, keys.renew)
    try:
        follower.follow()
    except StalledError:
        remove(cluster, job)
        raise
    except RlhfError:
        if follower.has_judged:
            _clear_away(cluster, job)
        raise
    _clear_away(cluster, job)


def _clear_away(cluster: Cluster, job: StageJob) -> None:
    if not job.config.keep_jobs:
        cluster.delete(kind_of(job), job.name)


def is_committed(job: StageJob) -> bool:
    """Whether the artifact that a step makes is complete."""
    root, prefix, _ = split_uri(job.output)
    return bool(prefix) and find_manifest(open_store(root), prefix) is not None
