"""Fixtures of the tests that need a Kubernetes cluster: `make test-cluster` brings one up for them."""

from __future__ import annotations

import os
import secrets
import sys
import sysconfig
from collections.abc import Iterator
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
    images = {"RLHF_REGISTRY": REGISTRY, "RLHF_VERSION": "test"}
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
    folders = {"packages": Path(sysconfig.get_path("purelib")), "tree": ROOT}
    volumes: list[Object] = [
        {"name": f"lent-{name}", "hostPath": {"path": str(folder), "type": "Directory"}}
        for name, folder in folders.items()
    ]
    mounts: list[Object] = [
        {"name": f"lent-{name}", "mountPath": f"/lent/{name}", "readOnly": True} for name in folders
    ]
    environment: dict[str, Any] = {
        "PYTHONPATH": "/lent/tree:/lent/packages",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Lent(PYTHON_IMAGE, volumes, mounts, environment)
