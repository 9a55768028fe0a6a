"""Training jobs in a namespace where our chart is installed, without a launcher."""

from __future__ import annotations

from collections.abc import Sequence

from kubernetes.client.exceptions import ApiException

from tests.support.cluster import Object, wait_until
from tests.support.releases import Release


def pytorchjob(release: Release, name: str, command: Sequence[str], workers: int = 0) -> Object:
    """A PyTorchJob whose pods run one command under `restricted`.

    Args:
        release: Whose image and account it uses.
        name: The job's.
        command: What each pod runs.
        workers: Pods besides the master.
    """
    container = {
        "name": "pytorch",
        "image": release.image,
        "command": list(command),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "serviceAccountName": "rlhf-stage",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 2,
        "containers": [container],
    }
    replicas = {"Master": 1, **({"Worker": workers} if workers else {})}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "labels": {"rlhf-stack/run": "of-the-chart"}},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {
                kind: {"replicas": count, "restartPolicy": "Never", "template": {"spec": spec}}
                for kind, count in replicas.items()
            },
        },
    }


def running_job(release: Release, name: str, seconds: int) -> Object:
    """Starts a PyTorchJob of one pod that sleeps; returns it once its pod runs."""
    release.cluster.create(pytorchjob(release, name, ["sleep", str(seconds)]), namespace=release.namespace)

    def runs() -> bool:
        try:
            seen = release.cluster.core.read_namespaced_pod(f"{name}-master-0", release.namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            return False
        return bool(seen.status.phase == "Running")

    wait_until(runs, 120, f"job {name} running")
    return release.cluster.pytorchjob(release.namespace, name)
