"""Finding the cluster: the one that this process runs in, else the one of the kubeconfig."""

from __future__ import annotations

import os
from pathlib import Path

from kubernetes import client
from kubernetes import config as kubeconfig

from components.common.errors import UserError
from components.launcher.cluster import Cluster

_TOKEN_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def connect(namespace: str = "") -> Cluster:
    """The cluster this process runs in, else the one of the kubeconfig.

    Args:
        namespace: By default the pod's own, else that of the kubeconfig's context.

    Raises:
        UserError: There is neither.
    """
    settings = client.Configuration()
    if in_cluster():
        kubeconfig.load_incluster_config(client_configuration=settings)
        own = own_namespace()
    else:
        try:
            file = os.environ.get("KUBECONFIG") or None  # the client itself reads it only once, when it is imported
            kubeconfig.load_kube_config(file, client_configuration=settings)
            _, active = kubeconfig.list_kube_config_contexts(file)
        except (kubeconfig.ConfigException, OSError) as error:
            raise UserError(
                f"no cluster is known: {error}", where="kubeconfig", hint="set KUBECONFIG to a cluster's file"
            ) from error
        own = active["context"].get("namespace", "default")
    return Cluster(client.ApiClient(settings), namespace or own)


def in_cluster() -> bool:
    """Whether this process runs in a pod that may speak to its cluster."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (_TOKEN_FOLDER / "token").is_file()


def own_namespace() -> str:
    """The namespace of this process's pod."""
    return (_TOKEN_FOLDER / "namespace").read_text(encoding="utf-8").strip()
