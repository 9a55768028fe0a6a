"""Where Kubeflow Pipelines runs, and what our chart has written down there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.common.errors import RetryableError, UserError
from components.launcher.cluster import BROKEN, ApiError, Cluster
from components.launcher.connect import connect, in_cluster
from components.names import CONFIG_MAP

SERVICE = "ml-pipeline"
ANSWER_SECONDS = 15.0


@dataclass(frozen=True)
class Home:
    """A namespace with Kubeflow Pipelines.

    Attributes:
        namespace: Its name.
        settings: The ConfigMap `rlhf-stack`: store, images, address of the web interface; empty where there is none.
    """

    namespace: str
    settings: Mapping[str, str] = field(default_factory=dict)


def find_home(namespace: str = "") -> Home:
    """Asks the cluster of the kubeconfig.

    Args:
        namespace: By default that of the kubeconfig's context, else the only one that has Kubeflow Pipelines.

    Raises:
        UserError: No cluster is known, it refuses, or it is not clear which namespace is meant.
        RetryableError: The cluster does not answer.
    """
    api = connect().api
    namespace = namespace or _context_namespace() or _only_namespace(Cluster(api, ""))
    found = _ask(Cluster(api, namespace), f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}", missing={})
    return Home(namespace, found.get("data") or {})


def _context_namespace() -> str:
    from kubernetes import config

    if in_cluster():
        return connect().namespace
    return str(config.list_kube_config_contexts()[1]["context"].get("namespace", ""))


def _only_namespace(cluster: Cluster) -> str:
    services = _ask(cluster, "/api/v1/services", {"fieldSelector": f"metadata.name={SERVICE}"})["items"]
    names = sorted(service["metadata"]["namespace"] for service in services)
    if len(names) == 1:
        return str(names[0])
    there = f"it is in {', '.join(names)}" if names else f"no namespace has the Service {SERVICE}"
    hint = "say which with -n" if names else "install charts/rlhf-stack"
    raise UserError(f"which Kubeflow Pipelines is not clear: {there}", where="kubeconfig", hint=hint)


def _ask(
    cluster: Cluster, path: str, query: Mapping[str, str] | None = None, missing: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One request; a person is waiting, so it is not repeated."""
    try:
        found: dict[str, Any] = json.loads(cluster.open("GET", path, query, None, ANSWER_SECONDS).data)
        return found
    except ApiError as error:
        if error.status == 404 and missing is not None:
            return missing
        hint = "give the namespace with -n" if query else "ask for the right to read it"
        raise UserError(f"the cluster refused: {error}", where=path, hint=hint) from error
    except BROKEN as error:
        host = cluster.api.configuration.host
        raise RetryableError(f"no answer: {error}", where=host, hint="check KUBECONFIG and the network") from error
