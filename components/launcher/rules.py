"""What the launcher may do in its namespace. Doctor asks for these rights, the manifests grant them."""

from __future__ import annotations

from typing import Any

_CHANGE = ("create", "get", "list", "watch", "patch", "delete")
_SEE = ("get", "list", "watch")

# API group, resources, verbs.
RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("kubeflow.org", ("pytorchjobs",), _CHANGE),
    ("batch", ("jobs",), _CHANGE),
    ("", ("pods", "events"), _SEE),
    ("", ("pods/log", "configmaps"), ("get",)),
    ("", ("secrets",), ("create", "get", "patch", "delete")),  # each job's own short-lived keys
)


def role_rules() -> list[dict[str, Any]]:
    """The rules as a Role spells them."""
    return [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)} for group, resources, verbs in RULES
    ]
