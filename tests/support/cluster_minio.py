"""A MinIO in the cluster, with a bucket and a user for each test."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider

from tests.support.cluster import Cluster, wait_until
from tests.support.minio_objects import PORT, minio_objects


@dataclass(frozen=True)
class Bucket:
    """A bucket and the one user that may use it.

    Attributes:
        name: The bucket's.
        access_key: The user's name.
        secret_key: The user's password.
        endpoint: URL of the server as pods see it.
        host_endpoint: The same as the tests' own process sees it.
    """

    name: str
    access_key: str
    secret_key: str
    endpoint: str
    host_endpoint: str

    @property
    def root(self) -> str:
        """The store's root."""
        return f"s3://{self.name}"

    def secret(self) -> dict[str, str]:
        """Content of the Secret `rlhf-store`."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def settings(self, *, host: bool = False) -> dict[str, str]:
        """The other variables of a store, for pods or for a process of the tests' machine."""
        endpoint = self.host_endpoint if host else self.endpoint
        return {"RLHF_STORE": self.root, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}

    def client(self) -> Minio:
        """A client of this user."""
        return Minio(_address(self.host_endpoint), self.access_key, self.secret_key, secure=False)


@dataclass(frozen=True)
class ClusterMinio:
    """A server in a namespace of its own; its data survive a restart.

    Attributes:
        cluster: Where it runs.
        namespace: Its namespace; Deployment, Service and claim are called `minio`.
        user: The root user's name.
        password: The root user's password.
        host_endpoint: URL of the server as the tests' own process sees it.
    """

    cluster: Cluster
    namespace: str
    user: str
    password: str
    host_endpoint: str

    @property
    def endpoint(self) -> str:
        """URL of the server as pods see it."""
        return f"http://minio.{self.namespace}.svc:{PORT}"

    def client(self) -> Minio:
        """A client of the root user."""
        return Minio(_address(self.host_endpoint), self.user, self.password, secure=False)

    def admin(self) -> MinioAdmin:
        """The same for users and policies."""
        provider = StaticProvider(self.user, self.password)
        return MinioAdmin(endpoint=_address(self.host_endpoint), credentials=provider, secure=False)

    def make_bucket(self) -> Bucket:
        """A new bucket with a user who may do everything in it and nothing elsewhere."""
        name = f"test-{secrets.token_hex(4)}"
        bucket = Bucket(name, name, secrets.token_hex(16), self.endpoint, self.host_endpoint)
        self.client().make_bucket(name)
        resources = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
        statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": resources}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as policy:
            json.dump({"Version": "2012-10-17", "Statement": [statement]}, policy)
            policy.flush()
            admin = self.admin()
            admin.policy_add(name, policy.name)
        admin.user_add(bucket.access_key, bucket.secret_key)
        admin.policy_set(name, user=bucket.access_key)
        return bucket

    def remove_bucket(self, bucket: Bucket) -> None:
        """Deletes a bucket with all that is in it, its user and its policy."""
        client, admin = self.client(), self.admin()
        for found in client.list_objects(bucket.name, recursive=True):
            client.remove_object(bucket.name, found.object_name)
        client.remove_bucket(bucket.name)
        admin.user_remove(bucket.access_key)
        admin.policy_remove(bucket.name)

    def scale(self, replicas: int) -> None:
        """Stops the server (0) or starts it again (1), and waits until that is so."""
        apps = self.cluster.apps
        apps.patch_namespaced_deployment_scale("minio", self.namespace, {"spec": {"replicas": replicas}})

        def settled() -> bool:
            status = apps.read_namespaced_deployment("minio", self.namespace).status
            pods = self.cluster.core.list_namespaced_pod(self.namespace).items
            return (status.ready_replicas or 0) == replicas == len(pods)

        wait_until(settled, 60, f"MinIO with {replicas} replicas")


@contextmanager
def running_minio(cluster: Cluster, image: str, namespace: str, size: str = "") -> Iterator[ClusterMinio]:
    """A server in a new namespace, removed at the end.

    Args:
        cluster: Where to run it.
        image: Its image.
        namespace: Name of the namespace to make.
        size: Of its disk, which is then memory and really ends there; by default it has a claim of 8Gi.
    """
    user, password = "root", secrets.token_hex(16)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    try:
        cluster.create(*minio_objects(image, user, password, size), namespace=namespace)
        with _reachable(cluster, namespace) as endpoint:
            yield ClusterMinio(cluster, namespace, user, password, endpoint)
    finally:
        cluster.remove_namespace(namespace)


@contextmanager
def _reachable(cluster: Cluster, namespace: str) -> Iterator[str]:
    """URL of the server for this machine: the Service's address where that is routed, else a forwarded port."""

    def ready() -> bool:
        return bool(cluster.apps.read_namespaced_deployment("minio", namespace).status.ready_replicas)

    wait_until(ready, 120, f"MinIO ready in {namespace}")
    address = cluster.core.read_namespaced_service("minio", namespace).spec.cluster_ip
    if _answers(address, PORT):
        yield f"http://{address}:{PORT}"
        return
    command = ["kubectl", "--kubeconfig", cluster.kubeconfig, "-n", namespace, "port-forward", "service/minio"]
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        process = subprocess.Popen([*command, f":{PORT}"], stdout=log, stderr=subprocess.STDOUT)

        def port() -> str:
            assert process.poll() is None, Path(log.name).read_text()
            return Path(log.name).read_text().partition("127.0.0.1:")[2].partition(" ")[0]

        try:
            yield f"http://127.0.0.1:{wait_until(port, 10, 'port forwarded to MinIO')}"
        finally:
            process.terminate()
            process.wait(timeout=10)


def _answers(host: str, port: int) -> bool:
    end = time.monotonic() + 5  # a Service is routed a moment after its pod is ready
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def _address(url: str) -> str:
    return url.removeprefix("http://")
