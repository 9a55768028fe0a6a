"""The jobs of a run and their pods, as the cluster has them, whoever made them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime

from components.common.errors import RlhfError
from components.launcher.cluster import EVENTS, JOBS, PODS, PYTORCHJOBS, ApiError, Cluster, Kind, Object, refused
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
