"""Kubernetes objects held against the typed models of the Python clients: unknown fields are mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import kubernetes.client.models as kubernetes_models
from kubeflow.training import models as kubeflow_models

_LEAVES = {"str": str, "bool": bool, "int": int, "float": (int, float), "datetime": str}


def mistakes(made: dict[str, Any]) -> list[str]:
    """What is wrong with an object: fields that its kind does not have, and values of the wrong type."""
    version, kind = made["apiVersion"], made["kind"]
    if version == "kubeflow.org/v1":
        return list(_check(made, getattr(kubeflow_models, f"KubeflowOrgV1{kind}"), kind))
    name = f"{version.rpartition('/')[2].title()}{kind}".replace("Customresource", "CustomResource")
    return list(_check(made, getattr(kubernetes_models, name), kind))


def _check(value: Any, kind: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: an object is expected, got {value!r}"
        return
    fields = {json: (name, kind.openapi_types[name]) for name, json in kind.attribute_map.items()}
    for key, item in value.items():
        if key not in fields:
            yield f"{where}.{key}: no such field"
        elif item is not None:
            yield from _check_type(item, fields[key][1], f"{where}.{key}")
    for json, (name, _) in fields.items():
        if json not in value and _required(kind, name):
            yield f"{where}.{json}: is missing"


@cache
def _required(kind: Any, name: str) -> bool:
    """Whether the model's own setter refuses None."""
    checks = SimpleNamespace(client_side_validation=False)
    made = kind(local_vars_configuration=checks)
    checks.client_side_validation = True
    try:
        setattr(made, name, None)
    except ValueError:
        return True
    return False


def _check_type(value: Any, expected: str, where: str) -> Iterator[str]:
    if expected == "object":
        return
    if expected in _LEAVES:
        kinds = _LEAVES[expected]
        if not isinstance(value, kinds) or (isinstance(value, bool) and expected != "bool"):
            yield f"{where}: {expected} is expected, got {value!r}"
    elif found := re.fullmatch(r"list\[(.*)\]", expected):
        if not isinstance(value, list):
            yield f"{where}: a list is expected, got {value!r}"
            return
        for number, item in enumerate(value):
            yield from _check_type(item, found[1], f"{where}[{number}]")
    elif found := re.fullmatch(r"dict\(str, (.*)\)", expected):
        for key, item in value.items():
            yield from _check_type(item, found[1], f"{where}.{key}")
    else:
        models = kubeflow_models if hasattr(kubeflow_models, expected) else kubernetes_models
        yield from _check(value, getattr(models, expected), where)
