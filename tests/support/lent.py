"""What turns a small Python image into ours: this checkout and this interpreter's packages, lent by the node."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import Object
from tests.support.commands import ROOT


@dataclass(frozen=True)
class Lent:
    """The checkout and the packages, read-only.

    Attributes:
        image: The image.
        volumes: Volumes of the pod.
        mounts: Mounts of its container.
        environment: Variables of its container.
    """

    image: str
    volumes: list[Object]
    mounts: list[Object]
    environment: dict[str, str] = field(default_factory=dict)

    def to(self, pod: Object) -> Object:
        """Lends it to a pod's containers; returns the pod."""
        spec = pod["spec"]
        spec.setdefault("volumes", []).extend(self.volumes)
        for container in spec["containers"]:
            container["image"] = self.image
            container.setdefault("volumeMounts", []).extend(self.mounts)
            container.setdefault("env", []).extend({"name": k, "value": v} for k, v in self.environment.items())
        return pod


def lend(image: str) -> Lent:
    """Lends this checkout and this interpreter's packages to an image; its pods need a namespace with hostPath."""
    # By that part of its path dill knows a package from a user's code, which it would pickle whole.
    folders = {"site-packages": Path(sysconfig.get_path("purelib")), "tree": ROOT}
    volumes: list[Object] = [
        {"name": f"lent-{name}", "hostPath": {"path": str(folder), "type": "Directory"}}
        for name, folder in folders.items()
    ]
    mounts: list[Object] = [
        {"name": f"lent-{name}", "mountPath": f"/lent/{name}", "readOnly": True} for name in folders
    ]
    environment = {
        "PYTHONPATH": "/lent/tree:/lent/site-packages",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Lent(image, volumes, mounts, environment)
