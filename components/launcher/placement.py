"""Named placements: which nodes have T4 GPUs, by where the cluster came from.

The files in `placements/` are the one source: launcher, manifests and docs read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from components.launcher.config import LauncherConfig


@dataclass(frozen=True)
class Placement:
    """Where pods may run.

    Attributes:
        node_selector: Labels that a node must have.
        tolerations: Taints that it may have, as Kubernetes spells them.
    """

    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()


def placements() -> list[str]:
    """Names of the placements that come with the package."""
    files = (resources.files("components.launcher") / "placements").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files)


def read_placement(name: str) -> Placement:
    """Reads a placement by its name."""
    text = (resources.files("components.launcher") / "placements" / f"{name}.yaml").read_text(encoding="utf-8")
    fields = yaml.safe_load(text)
    return Placement(fields["node_selector"], tuple(fields["tolerations"]))


def placement_of(config: LauncherConfig, *, gpus: bool) -> Placement:
    """Where pods run: on the named placement's nodes if they need GPUs, on any that their tolerations allow if not."""
    if not gpus:
        return Placement(tolerations=tuple(config.tolerations))
    named = read_placement(config.placement) if config.placement else Placement()
    return Placement({**named.node_selector, **config.node_selector}, (*named.tolerations, *config.tolerations))
