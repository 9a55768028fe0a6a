"""A Kubernetes cluster as the tests see it: typed clients, objects made from dictionaries, and waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException

Found = TypeVar("Found")
Object = dict[str, Any]

# What the Pod Security Standard `restricted` asks of a container, and a read-only root besides.
RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def wait_until(condition: Callable[[], Found], seconds: float, what: str) -> Found:
    """Polls until a condition holds.

    Args:
        condition: Returns something true once it holds.
        seconds: How long to wait.
        what: Says in the error what did not come.

    Returns:
        What the condition returned.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not so after {seconds:g} s"
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Finished:
    """How a pod's first container ended."""

    exit_code: int
    log: str
    reason: str


@dataclass(frozen=True)
class Cluster:
    """Clients for one kubeconfig.

    Attributes:
        kubeconfig: Its path, for commands.
    """

    kubeconfig: str

    @property
    def is_ours(self) -> bool:
        """Whether it is the one of tests/cluster, on this machine."""
        state = os.environ.get("RLHF_CLUSTER_STATE", "/var/lib/rlhf-cluster")
        return Path(self.kubeconfig) == Path(state, "kubeconfig")

    @cached_property
    def api(self) -> client.ApiClient:
        return config.new_client_from_config(self.kubeconfig)

    @cached_property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    @cached_property
    def apps(self) -> client.AppsV1Api:
        return client.AppsV1Api(self.api)

    @cached_property
    def batch(self) -> client.BatchV1Api:
        return client.BatchV1Api(self.api)

    @cached_property
    def custom(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.api)

    @cached_property
    def _dynamic(self) -> dynamic.DynamicClient:
        return dynamic.DynamicClient(self.api)

    def create(self, *objects: Object, namespace: str = "") -> None:
        """Creates objects of any kind, in order; tries again while the webhook of a new operator is not there yet."""
        for body in objects:
            resource = self._dynamic.resources.get(api_version=body["apiVersion"], kind=body["kind"])
            end = time.monotonic() + 60
            while True:
                try:
                    resource.create(body=body, namespace=namespace or None)
                    break
                except ApiException as error:
                    if "failed calling webhook" not in str(error.body) or time.monotonic() > end:
                        raise
                    time.sleep(1)

    def pytorchjob(self, namespace: str, name: str) -> Object:
        """A PyTorchJob as plain data."""
        found: Object = self.custom.get_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs", name)
        return found

    def pytorchjobs(self, namespace: str) -> list[Object]:
        """All PyTorchJobs of a namespace as plain data."""
        found = self.custom.list_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs")
        return list(found["items"])

    def may(self, namespace: str, account: str, verb: str, resource: str) -> bool:
        """Whether a service account may do something in its namespace; the resource is `name[/part][.group]`."""
        name, _, group = resource.partition(".")
        name, _, part = name.partition("/")
        wanted = client.V1ResourceAttributes(
            namespace=namespace, verb=verb, resource=name, subresource=part, group=group
        )
        user = f"system:serviceaccount:{namespace}:{account}"
        review = client.V1SubjectAccessReview(
            spec=client.V1SubjectAccessReviewSpec(user=user, resource_attributes=wanted)
        )
        answer = client.AuthorizationV1Api(self.api).create_subject_access_review(review)
        return bool(answer.status.allowed)

    def log(self, namespace: str, pod: str, **options: Any) -> str:
        """What a pod's container has written, decoded with care: a log may be cut inside a character."""
        response = self.core.read_namespaced_pod_log(pod, namespace, _preload_content=False, **options)
        return str(response.data.decode("utf-8", "replace"))

    def events(self, namespace: str) -> str:
        """The namespace's warnings, one a line, for messages of failed tests."""
        found = self.core.list_namespaced_event(namespace, field_selector="type=Warning").items
        return "\n".join(f"{event.involved_object.name}: {event.reason}: {event.message}" for event in found)

    def wait_for_pod(self, namespace: str, name: str, seconds: float = 120) -> Finished:
        """Waits until a pod has ended."""

        def ended() -> client.V1Pod | None:
            pod = self.core.read_namespaced_pod(name, namespace)
            return pod if pod.status.phase in ("Succeeded", "Failed") else None

        try:
            pod = wait_until(ended, seconds, f"pod {name} ended")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.events(namespace)}") from None
        state = pod.status.container_statuses[0].state.terminated if pod.status.container_statuses else None
        if state is None:  # evicted before it started
            return Finished(-1, "", f"{pod.status.reason}: {pod.status.message}")
        return Finished(state.exit_code, self.log(namespace, name), state.reason)

    def run_pod(self, namespace: str, pod: Object, seconds: float = 120) -> Finished:
        """Creates a pod, waits until it has ended and removes it."""
        name = pod["metadata"]["name"]
        self.core.create_namespaced_pod(namespace, pod)
        try:
            return self.wait_for_pod(namespace, name, seconds)
        finally:
            self.core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)

    def remove_namespace(self, name: str) -> None:
        """Deletes a namespace and waits until none of its pods holds a GPU."""
        try:
            self.custom.delete_collection_namespaced_custom_object("kubeflow.org", "v1", name, "pytorchjobs")
        except ApiException as error:
            if error.status != 404:  # a cluster without the operator
                raise
        self.batch.delete_collection_namespaced_job(name, propagation_policy="Background")
        self.core.delete_collection_namespaced_pod(name, grace_period_seconds=0)
        self.core.delete_namespace(name)
        wait_until(lambda: not self.core.list_namespaced_pod(name).items, 60, f"namespace {name} empty")


def pod(
    name: str,
    image: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    account: str = "rlhf-stage",
    **container: Any,
) -> Object:
    """A pod that runs one command under `restricted` and is not restarted.

    Args:
        name: The pod's.
        image: Its image; never pulled when the node has it.
        command: What it runs.
        environment: Its variables; those of the Secret and the ConfigMap of the run come by `envFrom`.
        account: Service account.
        container: Further fields of the container.
    """
    folders = {"tmp": "/tmp", "shm": "/dev/shm"}
    main = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "env": [{"name": key, "value": value} for key, value in {"HOME": "/tmp", **(environment or {})}.items()],
        "envFrom": [{"secretRef": {"name": "rlhf-store"}}, {"configMapRef": {"name": "rlhf-stack"}}],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": key, "mountPath": path} for key, path in folders.items()],
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [main],
            "restartPolicy": "Never",
            "serviceAccountName": account,
            "securityContext": {"fsGroup": 1000},
            "terminationGracePeriodSeconds": 5,
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ],
        },
    }
