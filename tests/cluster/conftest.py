"""Fixtures of the tests that need a Kubernetes cluster: `make test-cluster` brings one up for them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.cluster_minio import Bucket, ClusterMinio, running_minio
from tests.support.cluster_steps import Steps
from tests.support.lent import Lent, lend
from tests.support.namespaces import run_namespace

ROOT = Path(__file__).parents[2]
REGISTRY = os.environ.get("RLHF_TEST_REGISTRY", "localhost/rlhf-test")
PYTHON_IMAGE = f"{REGISTRY}/python:{sys.version_info[0]}.{sys.version_info[1]}"
MINIO_IMAGE = f"{REGISTRY}/minio:1"
VERSION = "test"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begins no test after the time that CI gives, in seconds since 1970."""
    if time.time() > float(os.environ.get("RLHF_TESTS_END", "inf")):
        pytest.skip(f"{item.nodeid}: CI's time was over")  # named, since equal reasons are counted and not listed


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
    level = "privileged" if "lent" in request.fixturenames else "restricted"
    images = {"RLHF_REGISTRY": REGISTRY, "RLHF_VERSION": VERSION}
    with run_namespace(cluster, level, bucket.secret(), {**bucket.settings(), **images}) as name:
        yield name


@pytest.fixture(scope="session")
def lent() -> Lent:
    """Lends the checkout and the packages; its pods need a namespace that allows hostPath."""
    return lend(PYTHON_IMAGE)


@pytest.fixture
def steps(cluster: Cluster, namespace: str, bucket: Bucket, lent: Lent, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The little stage as a step of a run, in the test's own namespace and bucket."""
    made = Steps(cluster, namespace, bucket, lent)
    for name, value in made.variables().items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def ours(cluster: Cluster) -> Cluster:
    """The cluster, where its own processes are this machine's to disturb."""
    if not cluster.is_ours:
        pytest.skip("the processes of KUBECONFIG's cluster are on other machines")
    return cluster


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
