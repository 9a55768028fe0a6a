"""Fixtures of the tests that need a Kubernetes cluster: `make test-cluster` brings one up for them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, Object
from tests.support.cluster_minio import Bucket, ClusterMinio, running_minio
from tests.support.namespaces import namespace_objects

ROOT = Path(__file__).parents[2]
REGISTRY = os.environ.get("RLHF_TEST_REGISTRY", "localhost/rlhf-test")
PYTHON_IMAGE = f"{REGISTRY}/python:{sys.version_info[0]}.{sys.version_info[1]}"
MINIO_IMAGE = f"{REGISTRY}/minio:1"
VERSION = "test"


@dataclass(frozen=True)
class Lent:
    """What turns a small Python image into ours: this checkout and this interpreter's packages, read-only.

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


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that KUBECONFIG names."""
    assert os.environ.get("KUBECONFIG"), 'KUBECONFIG is not set: `make test-cluster`, or eval "$(tests/cluster/up)"'
    return Cluster(os.environ["KUBECONFIG"])


@pytest.fixture(scope="session")
def minio(cluster: Cluster) -> Iterator[ClusterMinio]:
    """A MinIO for all tests of a session."""
    with running_minio(cluster, MINIO_IMAGE, f"rlhf-test-minio-{secrets.token_hex(3)}") as server:
        yield server


@pytest.fixture
def bucket(minio: ClusterMinio) -> Iterator[Bucket]:
    """A bucket and a user of its own for a test."""
    made = minio.make_bucket()
    yield made
    minio.remove_bucket(made)


@pytest.fixture
def namespace(request: pytest.FixtureRequest, cluster: Cluster, bucket: Bucket) -> Iterator[str]:
    """A namespace ready for a run. It enforces `restricted`, except for a test that is `lent` folders of the node."""
    name = f"rlhf-test-{secrets.token_hex(3)}"
    level = "privileged" if "lent" in request.fixturenames else "restricted"
    images = {"RLHF_REGISTRY": REGISTRY, "RLHF_VERSION": VERSION}
    made, objects = namespace_objects(name, level, bucket.secret(), {**bucket.settings(), **images})
    cluster.create(made)
    try:
        cluster.create(*objects, namespace=name)
        yield name
    finally:
        cluster.remove_namespace(name)


@pytest.fixture(scope="session")
def lent() -> Lent:
    """Lends the checkout and the packages; its pods need a namespace that allows hostPath."""
    # By that part of its path dill knows a package from a user's code, which it would pickle whole.
    folders = {"site-packages": Path(sysconfig.get_path("purelib")), "tree": ROOT}
    volumes: list[Object] = [
        {"name": f"lent-{name}", "hostPath": {"path": str(folder), "type": "Directory"}}
        for name, folder in folders.items()
    ]
    mounts: list[Object] = [
        {"name": f"lent-{name}", "mountPath": f"/lent/{name}", "readOnly": True} for name in folders
    ]
    environment: dict[str, Any] = {
        "PYTHONPATH": "/lent/tree:/lent/site-packages",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Lent(PYTHON_IMAGE, volumes, mounts, environment)


@pytest.fixture(scope="session")
def small_images(cluster: Cluster) -> Callable[[str], str]:
    """Our images without torch; the function names the one of a target."""
    return _stack(cluster, "launcher", "data")


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Callable[[str], str]:
    """All our images: ten minutes and 20 GB of disk the first time."""
    return _stack(cluster)


def _stack(cluster: Cluster, *targets: str) -> Callable[[str], str]:
    """Builds images into the cluster that this folder has made; any other must have them already."""
    if cluster.is_ours:
        subprocess.run([ROOT / "tests" / "cluster" / "images", "--stack", *targets], check=True)
    return lambda target: f"{REGISTRY}/{target}:{VERSION}"
