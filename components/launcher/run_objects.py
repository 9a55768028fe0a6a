"""The jobs of a run and their pods, as the cluster has them, whoever made them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from components.launcher.cluster import JOBS, PODS, PYTORCHJOBS, ApiError, Cluster, Kind, Object, refused
from components.launcher.job import LABEL_RUN


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


def is_owned(item: Object, uids: Collection[str]) -> bool:
    """Whether an object belongs to one of those with these uids, not to one that only had the same name."""
    return any(owner["uid"] in uids for owner in item["metadata"].get("ownerReferences", []))
