"""Our chart installed in a namespace of a test cluster, with images made there and packages lent from the node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster import Cluster, Object, pod
from tests.support.commands import ROOT
from tests.support.helm import CHART, helm

# Claims of each namespace, by which folders of the node are lent to its pods: `restricted` lets no hostPath in.
# By that part of its path dill knows a package from a user's code, which it would pickle whole.
FOLDERS = {"lent-site-packages": Path(sysconfig.get_path("purelib")), "lent-tree": ROOT}
PYTHONPATH = "/lent/tree:/lent/site-packages"
MOUNTS: list[Object] = [
    {"name": name, "mountPath": f"/lent/{name.removeprefix('lent-')}", "readOnly": True} for name in FOLDERS
]
VOLUMES: list[Object] = [
    {"name": name, "persistentVolumeClaim": {"claimName": name, "readOnly": True}} for name in FOLDERS
]

NAMESPACED = "all,secret,configmap,pvc,serviceaccount,role,rolebinding,networkpolicy,cronjob"
DEFINITION = "customresourcedefinition"
CLUSTER_WIDE = f"{DEFINITION},clusterrole,clusterrolebinding,validatingwebhookconfiguration"
KEEP = ("helm.sh/resource-policy", "keep")


@dataclass(frozen=True)
class Release:
    """One release of our chart.

    Attributes:
        cluster: Where it is.
        namespace: Its namespace; the release is called `rlhf`.
        image: A Python image, lent our packages.
        values: Values that make the chart fit the test cluster.
    """

    cluster: Cluster
    namespace: str
    image: str
    values: Mapping[str, Any]

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": self.cluster.kubeconfig}

    def helm(
        self, *arguments: str, chart: Path | None = None, values: Mapping[str, Any] | None = None, timeout: str = "5m"
    ) -> str:
        """Runs a Helm command on the release; with a chart, its values go with it.

        Args:
            arguments: Command and options, the release's name left out: `install`, `uninstall --wait`.
            chart: The chart to install or upgrade to.
            values: Laid over the release's own.
            timeout: How long Helm may wait.
        """
        command, *options = arguments
        options += ["-n", self.namespace, "--timeout", timeout]
        given = {}
        if chart:
            options += [str(chart), "--values", "-"]
            given = {"input": yaml.safe_dump_all([_merge(self.values, values or {})])}
        result = helm(command, "rlhf", *options, env=self._environment, **given)
        assert result.returncode == 0, f"{result.stderr}\n{result.stdout}\n{self.cluster.events(self.namespace)}"
        return result.stdout

    def upgrade(self, chart: Path = CHART, **values: Any) -> None:
        """Upgrades to a chart with further values, and waits."""
        self.helm("upgrade", "--wait", chart=chart, values=values)

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's content as it is stored."""
        content: dict[str, str] = self.cluster.core.read_namespaced_secret(name, self.namespace).data
        return content

    def python(self, name: str, code: str) -> str:
        """Runs Python in a pod that has the pipeline's credentials; returns what it prints."""
        made = pod(name, self.image, ["python", "-c", code], environment={"PYTHONPATH": PYTHONPATH})
        made["spec"]["volumes"].extend(VOLUMES)
        made["spec"]["containers"][0]["volumeMounts"].extend(MOUNTS)
        ended = self.cluster.run_pod(self.namespace, made)
        assert ended.exit_code == 0, ended.log
        return ended.log.strip()

    def objects(self, kinds: str = NAMESPACED) -> set[tuple[str, str]]:
        """Kind and name of what carries the release's label, but pods: in the namespace, or of the whole cluster."""
        command = ["kubectl", "get", "-n", self.namespace, "-l", "app.kubernetes.io/instance=rlhf", "-o", "name"]
        found = subprocess.run([*command, kinds], env=self._environment, capture_output=True, text=True, check=True)
        lines = (line.partition("/") for line in found.stdout.split())
        pairs = ((kind.partition(".")[0], name) for kind, _, name in lines)
        return {pair for pair in pairs if pair[0] not in ("pod", "replicaset")}

    def kept(self) -> set[tuple[str, str]]:
        """Kind and name of what the chart marks to be kept when the release is uninstalled."""
        result = helm("get", "manifest", "rlhf", "-n", self.namespace, env=self._environment)
        assert result.returncode == 0, result.stderr
        made = [(item["kind"].lower(), item["metadata"]) for item in yaml.safe_load_all(result.stdout)]
        return {(kind, said["name"]) for kind, said in made if KEEP in (said.get("annotations") or {}).items()}

    def uninstall(self) -> None:
        """Uninstalls the release; of what carries its label, just what is marked to be kept must be left."""
        kept = self.kept()
        self.helm("uninstall", "--wait")
        left, wanted = self.objects(), {pair for pair in kept if pair[0] != DEFINITION}
        assert left == wanted, left ^ wanted
        # Definitions outlive their release, so that of another test may be there, too.
        left = self.objects(CLUSTER_WIDE)
        assert {pair for pair in kept if pair[0] == DEFINITION} <= left
        assert {kind for kind, _ in left} <= {DEFINITION}


def next_version(folder: Path) -> Path:
    """A copy of our chart that says it is the next version."""
    copy = Path(shutil.copytree(CHART, folder / CHART.name))
    description = yaml.safe_load((copy / "Chart.yaml").read_text())
    (copy / "Chart.yaml").write_text(yaml.safe_dump({**description, "version": "0.1.1"}))
    return copy


@contextmanager
def prepared(cluster: Cluster, namespace: str, image: str, registry: str, **values: Any) -> Iterator[Release]:
    """A namespace that enforces `restricted`, in which the chart can be installed; removed at the end.

    Args:
        cluster: Where.
        namespace: Name of the namespace to make.
        image: A Python image, to which this tree and our packages are lent by claims.
        registry: Registry of the tests' own images.
        values: Further values.
    """
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    try:
        for name in FOLDERS:
            cluster.create(*_lent(name, namespace), namespace=namespace)
        yield Release(cluster, namespace, image, _merge(_values(image, registry), values))
    finally:
        cluster.remove_namespace(namespace)
        for name in FOLDERS:
            cluster.core.delete_persistent_volume(f"{name}-{namespace}")


def _lent(name: str, namespace: str) -> Sequence[Object]:
    same = {"accessModes": ["ReadOnlyMany"], "storageClassName": "lent"}
    volume = f"{name}-{namespace}"
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                **same,
                "capacity": {"storage": "1Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(FOLDERS[name]), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {**same, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
        },
    ]


def _values(image: str, registry: str) -> dict[str, Any]:
    host, _, path = registry.partition("/")
    return {
        "images": {"all": image},
        "minio": {
            "image": {"registry": host, "repository": f"{path}/minio", "tag": "1"},
            "persistence": {"size": "1Gi"},
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        },
        "helpers": {
            "extraEnv": [{"name": "PYTHONPATH", "value": PYTHONPATH}],
            "extraVolumes": VOLUMES,
            "extraVolumeMounts": MOUNTS,
        },
    }


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
