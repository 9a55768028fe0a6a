"""Real faults of the cluster itself. Its own processes can only be reached where they are processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cluster import Cluster, Object
from tests.support.commands import ROOT

UP = ROOT / "tests" / "cluster" / "up"


@contextmanager
def killed(name: str) -> Iterator[None]:
    """Kills a process of our cluster (apiserver, kubelet …); at the end all that is missing is started again.

    `up` starts what speaks to the API server anew when that was away, the kubelet too.
    """
    os.kill(_pid(name), signal.SIGKILL)
    try:
        yield
    finally:
        subprocess.run([UP], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def frozen(name: str) -> Iterator[None]:
    """Lets a process of our cluster answer nobody: connections stay open, and nothing comes."""
    pid = _pid(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def tainted(cluster: Cluster, key: str) -> Iterator[None]:
    """Gives every node a taint that keeps new pods away."""
    nodes = [node.metadata.name for node in cluster.core.list_node().items]
    try:
        for node in nodes:
            _set_taints(cluster, node, [*_taints(cluster, node), {"key": key, "effect": "NoSchedule"}])
        yield
    finally:
        for node in nodes:
            _set_taints(cluster, node, [taint for taint in _taints(cluster, node) if taint["key"] != key])


def _taints(cluster: Cluster, node: str) -> list[Object]:
    return [cluster.api.sanitize_for_serialization(taint) for taint in cluster.core.read_node(node).spec.taints or []]


def _set_taints(cluster: Cluster, node: str, taints: list[Object]) -> None:
    cluster.core.patch_node(node, {"spec": {"taints": taints or None}})


def _pid(name: str) -> int:
    """A process of our cluster, by the file that `tests/cluster/up` keeps."""
    state = os.environ.get("RLHF_CLUSTER_STATE", "/var/lib/rlhf-cluster")
    return int(Path(state, "pids", name).read_text().split()[0])
