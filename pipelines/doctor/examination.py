"""All checks, in order, and how they are shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.common.errors import RlhfError
from components.common.store import is_s3, named_root
from pipelines.doctor.finding import Check, Finding, examine

MARKS = {"ok": "ok", "warning": "warn", "failed": "FAIL"}


@dataclass(frozen=True)
class Wanted:
    """What a run would be like.

    Attributes:
        store: Root of the store; empty: what the environment or the cluster says.
        namespace: Of the jobs; empty: the kubeconfig context's.
        gpus: That each training pod asks for.
        nodes: Training pods of a job.
        placement: Name of a placement; empty: none.
        pull: Whether to try every image.
    """

    store: str = ""
    namespace: str = ""
    gpus: int = 4
    nodes: int = 1
    placement: str = ""
    pull: bool = False


@dataclass(frozen=True)
class Examination:
    """What was found, by where."""

    here: tuple[Finding, ...]
    cluster: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether a run is possible."""
        return all(finding.state != "failed" for finding in (*self.here, *self.cluster))


def knows_cluster() -> bool:
    """Whether this machine has a kubeconfig, or is a pod."""
    files = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    default = Path("~/.kube/config").expanduser()
    return any(files) or default.exists() or "KUBERNETES_SERVICE_HOST" in os.environ


def examine_all(wanted: Wanted) -> Examination:
    """Runs all checks that apply."""
    cluster = tuple(_on_cluster(wanted)) if knows_cluster() else ()
    return Examination(tuple(_here(wanted, alone=not cluster)), cluster)


def _here(wanted: Wanted, *, alone: bool) -> Iterator[Finding]:
    from pipelines.doctor import here
    from pipelines.doctor.stored import check_store

    root = named_root(wanted.store)
    yield from here.check_python()
    yield from here.check_packages()
    yield from here.check_memory()
    yield from here.check_disk(Path("." if is_s3(root) else root))
    yield from here.check_kfp()
    if alone:
        yield from examine("store", partial(check_store, root))


def _on_cluster(wanted: Wanted) -> Iterator[Finding]:
    from components.launcher.access import check_answers, cluster_access
    from components.launcher.connect import connect

    try:
        found = connect(wanted.namespace)
        check_answers(found)
    except RlhfError as error:
        yield Finding("cluster", "failed", str(error))
        return
    yield Finding("cluster", "ok", f"{found.api.configuration.host}, namespace {found.namespace}")
    for name, check in _checks(found, wanted):
        yield from examine(name, check)
    try:
        with cluster_access(wanted.namespace) as cluster:
            yield from _store(cluster, wanted)
    except RlhfError as error:
        yield Finding("store", "failed", str(error))


def _checks(found: Any, wanted: Wanted) -> Sequence[tuple[str, Check]]:
    from components.launcher.placement import Placement, read_placement
    from pipelines.doctor import cluster, nodes

    placement = read_placement(wanted.placement) if wanted.placement else Placement()
    return (
        ("operator", partial(cluster.check_operator, found)),
        ("rights", partial(cluster.check_rights, found)),
        ("namespace", partial(cluster.check_namespace, found)),
        ("quota", partial(cluster.check_quota, found, wanted.gpus)),
        ("nodes", partial(nodes.check_nodes, found, wanted.gpus, wanted.nodes, placement)),
        ("pipelines", partial(cluster.check_kfp_server, found)),
    )


def _store(cluster: Any, wanted: Wanted) -> Iterator[Finding]:
    """Checks that need the namespace's settings: the store, and the images that its ConfigMap names."""
    from components.launcher.config import LauncherConfig
    from pipelines.doctor.nodes import STEPS, check_images
    from pipelines.doctor.pull import check_pull
    from pipelines.doctor.stored import check_keys, check_store

    root = wanted.store or os.environ.get("RLHF_STORE", "")
    if not root:
        remedy = "set RLHF_STORE in the ConfigMap rlhf-stack, or give --store s3://BUCKET"
        yield Finding("store", "failed", "nothing says where it is", remedy)
    elif not is_s3(root):
        remedy = "give --store s3://BUCKET, or mount the folder into all pods by launcher.volumes"
        yield Finding("store", "warning", f"{root} is a folder, which pods do not see", remedy)
    else:
        yield from examine("store", partial(check_store, root))
        yield from examine("keys", partial(check_keys, root))
    yield from examine("images", partial(check_images, cluster))
    if wanted.pull:
        config = LauncherConfig(namespace=cluster.namespace)
        yield from examine("pull", partial(check_pull, cluster, STEPS, root, config))


def as_dict(examination: Examination) -> dict[str, Any]:
    """The findings as plain data."""
    return {
        "passed": examination.passed,
        "here": [asdict(finding) for finding in examination.here],
        "cluster": [asdict(finding) for finding in examination.cluster],
    }


def as_text(examination: Examination) -> str:
    """The findings, a line each, with the remedy below what is not as it should be."""
    parts = [("this machine", examination.here), ("cluster", examination.cluster)]
    lines: list[str] = []
    width = max(len(finding.name) for _, found in parts for finding in found)
    for title, found in parts:
        if not found:
            lines.append(f"{title}: no kubeconfig, so steps run here")
            continue
        lines.append(title)
        for finding in found:
            lines.append(f"  {MARKS[finding.state]:4}  {finding.name.ljust(width)}  {finding.what}")
            if finding.state != "ok" and finding.remedy:
                lines.append(f"        {' ' * width}  → {finding.remedy}")
    return "\n".join(lines)
