"""Nodes: T4s, GPUs that are free, taints, and images that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from components.common.flows import TRAINING_STAGES
from components.images import image_of
from components.launcher.cluster import ApiError, Cluster
from components.launcher.placement import Placement
from pipelines.doctor.finding import Finding

GPU = "nvidia.com/gpu"
STEPS = ("merge", "data", *TRAINING_STAGES, "evaluate")
# Labels by which clouds and NVIDIA's operator say what a node's GPU is; in each, a T4's value has this in it.
T4 = "t4"
PRODUCTS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "k8s.amazonaws.com/accelerator")
T4_MACHINES = ("g4dn.", "T4_v3")


def check_nodes(cluster: Cluster, gpus: int, nodes: int, placement: Placement) -> Iterator[Finding]:
    """Whether there are nodes for training pods, and how many GPUs are free now.

    Args:
        cluster: The cluster.
        gpus: That each pod asks for.
        nodes: Pods of a job.
        placement: Where they may run.
    """
    try:
        found = cluster.ask("GET", "/api/v1/nodes")["items"]
    except ApiError as error:
        yield Finding("nodes", "warning", f"we may not look at them ({error.status})", "ask whoever runs the cluster")
        return
    if gpus == 0:
        yield Finding("nodes", "ok", f"{len(found)}; no GPUs are asked for")
        return
    having = [node for node in found if _allocatable(node) > 0]
    if not having:
        yield Finding("nodes", "failed", f"none of {len(found)} has {GPU}", "add T4 nodes, and NVIDIA's device plugin")
        return
    able = [node for node in having if not _obstacle(node, gpus, placement)]
    if not able:
        obstacle = _obstacle(having[0], gpus, placement)
        yield Finding("nodes", "failed", f"{having[0]['metadata']['name']} {obstacle}", _remedy(having[0], placement))
        return
    t4 = sum(_is_t4(node) for node in able)
    what = f"{len(able)} with {gpus} or more {GPU}, {t4} of them T4"
    yield Finding("nodes", "ok" if t4 else "warning", what, "" if t4 else "settings are sized for T4s: see rlhf plan")
    yield from _free(cluster, able, gpus, nodes)


def _free(cluster: Cluster, nodes: Sequence[dict[str, Any]], gpus: int, wanted: int) -> Iterator[Finding]:
    try:
        pods = cluster.ask("GET", "/api/v1/pods")["items"]
    except ApiError as error:
        yield Finding("free GPUs", "warning", f"we may not look at other pods ({error.status})", "")
        return
    used: dict[str, int] = {}
    for pod in pods:
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            node = pod["spec"].get("nodeName", "")
            used[node] = used.get(node, 0) + _asked(pod)
    free = {node["metadata"]["name"]: _allocatable(node) - used.get(node["metadata"]["name"], 0) for node in nodes}
    room = sum(count // gpus for count in free.values())
    shown = ", ".join(f"{count} on {name}" for name, count in sorted(free.items()))
    if room >= wanted:
        yield Finding("free GPUs", "ok", shown)
    else:
        yield Finding("free GPUs", "warning", shown, "a job waits until others end (launcher.pending_timeout)")


def _asked(pod: dict[str, Any]) -> int:
    containers = pod["spec"].get("containers", [])
    return sum(int((c.get("resources") or {}).get("limits", {}).get(GPU, 0)) for c in containers)


def _allocatable(node: dict[str, Any]) -> int:
    return int((node.get("status") or {}).get("allocatable", {}).get(GPU, 0))


def _is_t4(node: dict[str, Any]) -> bool:
    labels = node["metadata"].get("labels", {})
    machine = labels.get("node.kubernetes.io/instance-type", "")
    return any(T4 in labels.get(name, "").lower() for name in PRODUCTS) or any(part in machine for part in T4_MACHINES)


def _obstacle(node: dict[str, Any], gpus: int, placement: Placement) -> str:
    """Why a training pod cannot run on a node; empty if it can."""
    if _allocatable(node) < gpus:
        return f"has {_allocatable(node)} {GPU}, {gpus} are asked for"
    if node["spec"].get("unschedulable"):
        return "is cordoned"
    labels = node["metadata"].get("labels", {})
    for name, value in placement.node_selector.items():
        if labels.get(name) != value:
            return f"has no label {name}={value}"
    for taint in node["spec"].get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(t, taint) for t in placement.tolerations):
            return f"has the taint {taint['key']}={taint.get('value', '')}:{taint['effect']}"
    return ""


def _tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def _remedy(node: dict[str, Any], placement: Placement) -> str:
    if node["spec"].get("taints") and not placement.tolerations:
        return "set launcher.placement, or launcher.tolerations"
    return "set launcher.gpus_per_node and launcher.nodes to what there is, or launcher.placement, or add nodes"


def check_images(cluster: Cluster) -> Iterator[Finding]:
    """Which images the nodes have already."""
    wanted = sorted({image_of(step) for step in STEPS})
    try:
        nodes = cluster.ask("GET", "/api/v1/nodes")["items"]
    except ApiError:
        return
    images = [image for node in nodes for image in (node.get("status") or {}).get("images") or []]
    there = {name for image in images for name in image.get("names") or []}
    absent = [image for image in wanted if image not in there]
    if absent:
        what = f"{len(absent)} of {len(wanted)} on no node yet: {', '.join(absent)}"
        yield Finding("images", "warning", what, "they are pulled when first used; `rlhf doctor --pull` tries now")
    else:
        yield Finding("images", "ok", f"all {len(wanted)} are on a node")
