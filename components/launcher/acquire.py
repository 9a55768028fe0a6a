"""Getting hold of a step's job: made now, or found as an earlier launcher of the same run left it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

from components.common.errors import RetryableError, UserError
from components.common.logs import say
from components.launcher.cluster import JOBS, PODS, PYTORCHJOBS, ApiError, Cluster, Kind, Object, pauses
from components.launcher.connect import in_cluster, own_namespace
from components.launcher.job import LABEL_KEY, LABEL_RUN, LABEL_STAGE, StageJob
from components.launcher.objects import to_object
from components.launcher.reasons import failure_condition, has_succeeded

OPERATOR_SECONDS = 60.0  # a rollout of the operator takes so long; without one there is no point in waiting
_GONE_SECONDS = 60.0


def kind_of(job: StageJob) -> Kind:
    """The kind of object that runs a step."""
    return PYTORCHJOBS if job.is_training else JOBS


def acquire(cluster: Cluster, job: StageJob, committed: Callable[[], bool]) -> Object:
    """Makes a step's job, or adopts the one that is there. One that failed, or whose result is gone, is replaced.

    Args:
        cluster: Where it belongs.
        job: The step.
        committed: Whether the step's result is in the store.

    Raises:
        UserError: The cluster has no such kind or namespace, refuses the job, or has another's job of that name.
        RetryableError: The operator or the API server does not answer.
    """
    body = to_object(job, owner_reference(cluster))
    for pause in pauses(OPERATOR_SECONDS):
        try:
            made = cluster.create(kind_of(job), body)
            say(job.title, f"job {job.name} in namespace {cluster.namespace}: {logs_command(cluster, job)}")
            return made
        except ApiError as error:
            if error.status == 409:
                adopted = _adopt(cluster, job, committed)
                if adopted is not None:
                    return adopted
                continue
            if error.status < 500 or pause is None:
                raise _refused(cluster, job, error) from error
        time.sleep(pause or 0)
    raise RetryableError("another launcher makes and removes it", where=job.name, hint="see who else runs this run")


def remove(cluster: Cluster, job: StageJob) -> None:
    """Deletes a step's job and waits until its pods are gone, so that others of the same names can be made.

    Raises:
        RetryableError: They do not go.
    """
    cluster.delete(kind_of(job), job.name)
    end = time.monotonic() + job.config.grace_period + _GONE_SECONDS
    while time.monotonic() < end:
        if cluster.get(kind_of(job), job.name) is None and not cluster.list(PODS, job.labels):
            return
        time.sleep(0.5)
    raise RetryableError("its pods do not go away", where=job.name, hint="see whether their node is gone")


def owner_reference(cluster: Cluster) -> dict[str, Any] | None:
    """The Argo Workflow that this process's pod belongs to, so that jobs go when the run is deleted.

    Not the pod: pods of finished steps are cleared away while their jobs may be wanted. None for a job in another
    namespace than this pod's: Kubernetes takes an owner that it does not find beside the job for one that is gone, and
    deletes the job.
    """
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME")  # a host's name may be cut short
    beside = in_cluster() and own_namespace() == cluster.namespace
    pod = cluster.get(PODS, name) if beside and name else None
    owners = pod["metadata"].get("ownerReferences", []) if pod else []
    for owner in owners:
        if owner["kind"] == "Workflow":
            return {name: owner[name] for name in ("apiVersion", "kind", "name", "uid")}
    return None


def logs_command(cluster: Cluster, job: StageJob) -> str:
    """The command by which a person follows a step's log."""
    labels = f"{LABEL_RUN}={job.run},{LABEL_STAGE}={job.stage}"
    return f"kubectl logs -n {cluster.namespace} -f -l {labels} --tail=-1"


def _adopt(cluster: Cluster, job: StageJob, committed: Callable[[], bool]) -> Object | None:
    """The job of that name if it is this step's and may still end well; None when the name is free now."""
    found = cluster.get(kind_of(job), job.name)
    if found is None:
        return None
    labels = found["metadata"].get("labels", {})
    if any(labels.get(name) != job.labels[name] for name in (LABEL_RUN, LABEL_STAGE, LABEL_KEY)):
        raise UserError(
            f"there is another job of that name in namespace {cluster.namespace}",
            where=job.name,
            hint="delete it, or use another --run-id",
        )
    leaving = "deletionTimestamp" in found["metadata"]
    ended_well = has_succeeded(found) and job.output and committed()
    if not leaving and (ended_well or not (has_succeeded(found) or failure_condition(found))):
        say(job.title, f"goes on with job {job.name}: {logs_command(cluster, job)}")
        return found
    remove(cluster, job)
    return None


def _refused(cluster: Cluster, job: StageJob, error: ApiError) -> Exception:
    where = f"{job.title} (namespace {cluster.namespace})"
    if "webhook" in error.message and error.status >= 500:  # a webhook that refuses says 4xx
        return RetryableError(
            f"the training operator does not answer: {error.message}", where=where, hint="see whether it runs"
        )
    if error.status == 404 and "namespaces" in error.message:
        return UserError(error.message, where=where, hint="make it, or set launcher.namespace")
    if error.status == 404:
        return UserError(
            f"the cluster has no {kind_of(job).plural}", where=where, hint="install the training operator and its CRD"
        )
    if error.status >= 500:
        return RetryableError(f"the job cannot be made: {error}", where=where)
    hint = "see the role rlhf-launcher, quotas and policies" if error.status in (401, 403) else "check launcher.*"
    return UserError(f"the cluster refuses the job: {error.message}", where=where, hint=hint)


def in_namespace(job: StageJob, cluster: Cluster) -> StageJob:
    """The same step in the namespace that the cluster was asked for."""
    return dataclasses.replace(job, config=job.config.model_copy(update={"namespace": cluster.namespace}))
