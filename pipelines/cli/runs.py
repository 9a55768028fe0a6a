"""Finding a run: in a directory, in an S3 store, and by its labels on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from components.common.errors import RlhfError, UserError
from components.common.store import is_s3, named_root, open_store
from components.launcher.record import Place, Run

if TYPE_CHECKING:
    from components.launcher.cluster import Cluster

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Found:
    """A run, and where it is.

    Attributes:
        run: The run.
        place: Where it is driven from; None where Kubeflow Pipelines drives it.
        cluster: The namespace that has its jobs, if a cluster has them.
        pipelines: The namespace that was asked for, where Kubeflow Pipelines may drive it.
        fault: Why its store could not be asked for it, where only the cluster knows it.
    """

    run: Run
    place: Place | None
    cluster: Cluster | None
    pipelines: Cluster | None = None
    fault: RlhfError | None = None


def options(command: Command) -> Command:
    """Adds the options by which a run is found."""
    store = click.option("--store", envvar="RLHF_STORE", help="Where results are kept; default rlhf-store.")
    namespace = click.option("-n", "--namespace", default="", help="Of the run's jobs; its store is looked up there.")
    return store(namespace(command))


@contextmanager
def found_run(run_id: str | None, store: str | None, namespace: str, *, needs_store: bool = True) -> Iterator[Found]:
    """Finds a run while the block runs.

    Args:
        run_id: Its id; None: the newest of the store.
        store: Root of the store; None: the cluster's, if a namespace is given, else the default directory.
        namespace: Of its jobs; empty: what the run itself says.
        needs_store: Whether a store that does not answer is an error; else what the cluster knows of the run will do.

    Raises:
        UserError: There is no such run.
    """
    from components.launcher.access import cluster_access

    if namespace or is_s3(store or ""):
        with cluster_access(namespace, needs_store=needs_store) as cluster:
            yield _found(cluster, run_id, store or os.environ.get("RLHF_STORE", ""), namespace, needs_store=needs_store)
        return
    run = _run(run_id, named_root(store))
    place = run.place()
    if place is None or place.on == "local":
        yield Found(run, place, None)
        return
    with cluster_access(place.namespace) as cluster:
        yield Found(run, place, cluster)


def _found(cluster: Cluster, run_id: str | None, root: str, namespace: str, *, needs_store: bool) -> Found:
    """A run of a cluster. One whose first step has not begun is known to the cluster alone."""
    from components.launcher.run_objects import is_known

    try:
        run = _run(run_id, root, lambda asked: is_known(cluster, asked))
        place = run.place()
        return Found(run, place, _cluster_of(run, place, cluster, namespace), cluster)
    except RlhfError as error:
        if needs_store or not (root and run_id and is_known(cluster, run_id)):
            raise
        return Found(Run(open_store(root), run_id), None, cluster, cluster, error)


def _cluster_of(run: Run, place: Place | None, cluster: Cluster, namespace: str) -> Cluster | None:
    """The namespace that has a run's jobs: the one asked for, else the run's own; none for a run of this machine.

    A run of Kubeflow Pipelines is asked for by the namespace of Kubeflow Pipelines; its jobs may be in another.
    """
    from components.launcher.cluster import Cluster
    from components.launcher.planned import jobs_namespace

    if place is None:
        return Cluster(cluster.api, jobs_namespace(run) or cluster.namespace)
    if namespace:
        return cluster
    return None if place.on == "local" else Cluster(cluster.api, place.namespace or cluster.namespace)


def _run(run_id: str | None, root: str, is_elsewhere: Callable[[str], bool] = lambda _: False) -> Run:
    if not root:
        raise UserError("no store is known", where="--store", hint="give it, or set RLHF_STORE in ConfigMap rlhf-stack")
    store = open_store(root)
    runs = sorted({path.split("/")[1] for path in store.files("runs") if path.count("/") > 1})
    if run_id is None and runs:
        return max((Run(store, name) for name in runs), key=_began)
    if run_id not in runs and not (run_id and is_elsewhere(run_id)):
        known = f"runs: {', '.join(runs[-5:])}" if runs else "there is none"
        raise UserError("no such run", where=f"{run_id or 'run'} in {store.root}", hint=known)
    return Run(store, str(run_id))


def _began(run: Run) -> float:
    try:
        return max((record.started for record in run.steps()), default=0.0)
    except RlhfError:  # removed while we look
        return 0.0
