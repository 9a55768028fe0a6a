"""What a run's namespace holds before the run: accounts, what they may do, where the store is."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.support.cluster import Cluster, Object

_CHANGE = ["create", "get", "list", "watch", "patch", "delete"]
_SEE = ["get", "list", "watch"]
_RULES = [
    {"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"], "verbs": _CHANGE},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": _CHANGE},
    {"apiGroups": [""], "resources": ["pods", "events"], "verbs": _SEE},
    {"apiGroups": [""], "resources": ["pods/log", "configmaps"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "patch", "delete"]},
]


def namespace_objects(
    name: str, level: str, store: Mapping[str, str], settings: Mapping[str, str]
) -> tuple[Object, list[Object]]:
    """The namespace and what is in it.

    Args:
        name: The namespace's.
        level: Pod Security Standard that it enforces.
        store: Content of the Secret `rlhf-store`, by variable.
        settings: Content of the ConfigMap `rlhf-stack`, by variable.

    Returns:
        The namespace, and its objects in the order of their making.
    """
    rbac = "rbac.authorization.k8s.io"
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}},
    }
    return namespace, [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "rlhf-launcher"}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "rlhf-stage"},
            "automountServiceAccountToken": False,
        },
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "rlhf-launcher"}, "rules": _RULES},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "rlhf-launcher"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "rlhf-launcher"},
            "subjects": [{"kind": "ServiceAccount", "name": "rlhf-launcher"}],
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rlhf-store"}, "stringData": dict(store)},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rlhf-stack"}, "data": dict(settings)},
    ]


@contextmanager
def run_namespace(cluster: Cluster, level: str, store: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[str]:
    """A new namespace that is ready for a run; removed at the end, with all that is in it.

    Args:
        cluster: Where it is made.
        level: Pod Security Standard that it enforces.
        store: Content of the Secret `rlhf-store`, by variable.
        settings: Content of the ConfigMap `rlhf-stack`, by variable.
    """
    name = f"rlhf-test-{secrets.token_hex(3)}"
    made, objects = namespace_objects(name, level, store, settings)
    cluster.create(made)
    try:
        cluster.create(*objects, namespace=name)
        yield name
    finally:
        cluster.remove_namespace(name)
