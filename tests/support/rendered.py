"""Our chart rendered with each kind of values, and what is in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tests.support.helm import CHART

VALUES = {path.stem.removesuffix("-values"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
CASES = ["default", *VALUES]

Object = dict[str, Any]


def arguments(case: str) -> list[str]:
    """Of Helm, for one kind of values."""
    return [] if case == "default" else ["-f", str(VALUES[case])]


def names(objects: Iterable[Object]) -> list[tuple[str, str]]:
    """Kind and name of each object."""
    return [(made["kind"], made["metadata"]["name"]) for made in objects]


def pod_specs(objects: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    """Name and spec of every pod that objects make."""
    for made in objects:
        spec = made.get("spec") or {}
        if made["kind"] == "Pod":
            yield made["metadata"]["name"], spec
        elif made["kind"] in ("Deployment", "Job"):
            yield made["metadata"]["name"], spec["template"]["spec"]
        elif made["kind"] == "CronJob":
            yield made["metadata"]["name"], spec["jobTemplate"]["spec"]["template"]["spec"]


def containers(objects: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    """Every container of these pods, under the pod's name and its own."""
    for name, spec in pod_specs(objects):
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            yield f"{name}/{container['name']}", container
