"""The jobs of a run and their pods, as the cluster has them, whoever made them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime

from components.common.errors import RlhfError
from components.launcher.cluster import (
    EVENTS,
    JOBS,
    PODS,
    PYTORCHJOBS,
    WORKFLOWS,
    ApiError,
    Cluster,
    Kind,
    Object,
    refused,
)
from components.launcher.job import LABEL_RUN, STEP

KFP_CONTAINER = "main"  # of its pods: the one that does a step's work
KFP_RUN = "pipeline/runid"  # the label of Kubeflow Pipelines' own objects


def jobs_of(cluster: Cluster, run: str) -> Iterator[tuple[Kind, Object]]:
    """A run's jobs. A cluster without the training operator has none of its kind."""
    for kind in (PYTORCHJOBS, JOBS):
        try:
            found = cluster.ask("GET", cluster.path(kind), {"labelSelector": f"{LABEL_RUN}={run}"})
        except ApiError as error:
            if error.status != 404:
                raise refused(error, f"list {kind.plural}", cluster.namespace) from error
            continue
        yield from ((kind, item) for item in found["items"])


def pods_of(cluster: Cluster, run: str) -> list[Object]:
    """All pods of a run's jobs."""
    return cluster.list(PODS, {LABEL_RUN: run})


def workflows_of(cluster: Cluster, run: str) -> list[Object] | None:
    """The Argo Workflows of a run of Kubeflow Pipelines; None where we may not see them, or the cluster has no such."""
    try:
        found = cluster.ask("GET", cluster.path(WORKFLOWS), {"labelSelector": f"{KFP_RUN}={run}"})
    except ApiError as error:
        if error.status in (403, 404):
            return None
        raise refused(error, "list workflows", cluster.namespace) from error
    return list(found["items"])


def step_pods_of(cluster: Cluster, run: str, step: str) -> list[Object]:
    """The pods in which Kubeflow Pipelines runs a step, the newest last."""
    pods = cluster.list(PODS, {KFP_RUN: run, STEP: step})
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def is_known(cluster: Cluster, run: str) -> bool:
    """Whether the cluster has anything of a run, which may have recorded nothing yet."""
    return any(jobs_of(cluster, run)) or bool(workflows_of(cluster, run))


def events_about(cluster: Cluster, names: Iterable[str]) -> list[Object]:
    """What the cluster says of the objects of these names; the server picks it out. Nothing where it does not tell."""
    try:
        asked = (f"involvedObject.name={name}" for name in dict.fromkeys(names))
        return [event for fields in asked for event in cluster.list(EVENTS, fields=fields)]
    except RlhfError:  # they only add to a reason that is known
        return []


def is_owned(item: Object, uids: Collection[str]) -> bool:
    """Whether an object belongs to one of those with these uids, not to one that only had the same name."""
    return any(owner["uid"] in uids for owner in item["metadata"].get("ownerReferences", []))


def age_of(item: Object) -> float:
    """Seconds since an object was made, by its server's clock and ours; little for one that we have just made."""
    made_at = datetime.fromisoformat(item["metadata"]["creationTimestamp"])
    return max(0.0, (datetime.now(UTC) - made_at).total_seconds())
