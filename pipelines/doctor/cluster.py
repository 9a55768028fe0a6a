"""The cluster: the operator, our accounts and rights, what the namespace allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from components.launcher.cluster import CONFIG_MAPS, SECRETS, ApiError, Cluster, Kind
from components.launcher.job import TRAINING_RESOURCES
from components.launcher.pod import GPU
from components.launcher.rules import RULES
from components.names import CONFIG_MAP, LAUNCHER_ACCOUNT, SECRET, STAGE_ACCOUNT
from pipelines.doctor.finding import Finding

ACCOUNTS = Kind("/api/v1", "serviceaccounts")
QUOTAS = Kind("/api/v1", "resourcequotas")
LIMITS = Kind("/api/v1", "limitranges")
OPERATOR = "training-operator"
CHART = "helm install rlhf charts/rlhf-stack"
# By what names quotas count a resource; our pods have no limit on cores.
_COUNTED = {
    GPU: (f"requests.{GPU}",),
    "cpu": ("requests.cpu", "cpu"),
    "memory": ("requests.memory", "memory", "limits.memory"),
    "pods": ("pods", "count/pods"),
    "jobs": ("count/pytorchjobs.kubeflow.org",),
}
_LIMITED = ("Container", "Pod")  # a LimitRange also speaks of volumes


def check_operator(cluster: Cluster) -> Iterator[Finding]:
    """Whether the cluster knows PyTorchJobs, and somebody there makes pods of them."""
    try:
        known = cluster.ask("GET", "/apis/kubeflow.org/v1")["resources"]
    except ApiError:
        known = []
    if "pytorchjobs" not in {resource["name"] for resource in known}:
        yield Finding(
            "CRD", "failed", "the cluster knows no PyTorchJob", f"{CHART}, or install the training operator v1.9"
        )
        return
    yield Finding("CRD", "ok", "pytorchjobs.kubeflow.org/v1")
    try:
        found = cluster.ask("GET", "/apis/apps/v1/deployments")["items"]
    except ApiError as error:
        yield Finding("operator", "warning", f"we may not look for it ({error.status})", "ask whoever runs the cluster")
        return
    operators = [item for item in found if item["metadata"]["name"].endswith(OPERATOR)]
    ready = [item for item in operators if (item.get("status") or {}).get("readyReplicas")]
    if ready:
        yield Finding("operator", "ok", f"{_place(ready[0])} is ready")
    elif operators:
        remedy = (
            f"kubectl -n {operators[0]['metadata']['namespace']} describe deployment {operators[0]['metadata']['name']}"
        )
        yield Finding("operator", "failed", f"{_place(operators[0])} is not ready", remedy)
    else:
        yield Finding("operator", "failed", f"there is no Deployment {OPERATOR}", f"{CHART}, or install it")


def check_rights(cluster: Cluster) -> Iterator[Finding]:
    """Whether we may do what the launcher does, by asking the API server for each of it."""
    refused = [
        f"{verb} {resource}"
        for group, resources, verbs in RULES
        for resource in resources
        for verb in verbs
        if not _allowed(cluster, group, resource, verb)
    ]
    if refused:
        remedy = f"bind the Role rlhf-launcher (manifests/base/rbac.yaml) to yourself in {cluster.namespace}"
        yield Finding("rights", "failed", f"we may not {', '.join(refused)}", remedy)
    else:
        count = sum(len(resources) * len(verbs) for _, resources, verbs in RULES)
        yield Finding("rights", "ok", f"all {count} that the launcher needs in namespace {cluster.namespace}")


def _allowed(cluster: Cluster, group: str, resource: str, verb: str) -> bool:
    name, _, below = resource.partition("/")
    asked = {"namespace": cluster.namespace, "group": group, "resource": name, "subresource": below, "verb": verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return bool(cluster.ask("POST", path, body=review)["status"]["allowed"])


def check_namespace(cluster: Cluster) -> Iterator[Finding]:
    """Whether the namespace is there, holds what pods refer to, and how strict it is."""
    try:
        labels = cluster.ask("GET", f"/api/v1/namespaces/{cluster.namespace}")["metadata"].get("labels", {})
    except ApiError as error:
        if error.status == 404:
            yield Finding(
                "namespace",
                "failed",
                f"there is no {cluster.namespace}",
                f"kubectl create namespace {cluster.namespace}",
            )
            return
        labels = None
    yield from _security(labels)
    wanted = (
        ("account", ACCOUNTS, LAUNCHER_ACCOUNT),
        ("account", ACCOUNTS, STAGE_ACCOUNT),
        ("ConfigMap", CONFIG_MAPS, CONFIG_MAP),
        ("Secret", SECRETS, SECRET),
    )
    missing = [f"{what} {name}" for what, kind, name in wanted if not _exists(cluster, kind, name)]
    if missing:
        yield Finding(
            "objects", "failed", f"{', '.join(missing)} missing", f"{CHART}, or kubectl apply -k manifests/base"
        )
    else:
        yield Finding("objects", "ok", "accounts, ConfigMap rlhf-stack, Secret rlhf-store")


def _security(labels: dict[str, str] | None) -> Iterator[Finding]:
    if labels is None:
        yield Finding("pod security", "warning", "we may not read the namespace's labels", "")
        return
    level = labels.get("pod-security.kubernetes.io/enforce", "none")
    if level == "restricted":
        yield Finding("pod security", "ok", "restricted, which our pods meet")
    else:
        remedy = "our pods meet restricted: kubectl label namespace NAME pod-security.kubernetes.io/enforce=restricted"
        yield Finding("pod security", "warning", f"{level} is enforced", remedy)


def check_quota(cluster: Cluster, gpus: int) -> Iterator[Finding]:
    """Whether quotas and limits leave room for a training pod."""
    try:
        quotas = cluster.ask("GET", cluster.path(QUOTAS))["items"]
        limits = cluster.ask("GET", cluster.path(LIMITS))["items"]
    except ApiError as error:
        yield Finding("quota", "warning", f"we may not look at it ({error.status})", "ask whoever runs the cluster")
        return
    tight = [fault for quota in quotas for fault in _tight(quota, gpus)]
    tight += [fault for limit in limits for fault in _limited(limit, gpus)]
    if tight:
        yield Finding("quota", "failed", "; ".join(tight), "have it raised, or wait for other jobs to end")
    else:
        yield Finding("quota", "ok", "leaves room" if quotas or limits else "there is none")


def _tight(quota: dict[str, Any], gpus: int) -> Iterator[str]:
    status = quota.get("status") or {}
    for resource, needed in _needed(gpus).items():
        for name in _COUNTED[resource]:
            hard, used = status.get("hard", {}).get(name), status.get("used", {}).get(name, "0")
            if hard is not None and parse_quantity(hard) - parse_quantity(used) < parse_quantity(needed):
                yield f"{quota['metadata']['name']}: {used} of {hard} {name} are used, {needed} more are needed"


def _limited(limit: dict[str, Any], gpus: int) -> Iterator[str]:
    for item in limit["spec"]["limits"]:
        for resource, needed in _needed(gpus).items():
            most = item.get("max", {}).get(resource)
            if most is not None and item["type"] in _LIMITED and parse_quantity(most) < parse_quantity(needed):
                yield f"{limit['metadata']['name']}: at most {most} {resource} for each {item['type'].lower()}"


def _needed(gpus: int) -> dict[str, str]:
    """What a training pod asks for, and the objects that a job consists of."""
    return {
        GPU: str(gpus),
        "cpu": TRAINING_RESOURCES.cpu,
        "memory": TRAINING_RESOURCES.memory,
        "pods": "1",
        "jobs": "1",
    }


def check_kfp_server(cluster: Cluster) -> Iterator[Finding]:
    """Whether Kubeflow Pipelines answers, through the API server's proxy."""
    try:
        services = cluster.ask("GET", "/api/v1/services", {"fieldSelector": "metadata.name=ml-pipeline"})["items"]
    except ApiError as error:
        yield Finding("pipelines", "warning", f"we may not look for it ({error.status})", "rlhf submit --endpoint URL")
        return
    if not services:
        remedy = "only `rlhf submit` needs it, `rlhf run --on kubernetes` does not"
        yield Finding("pipelines", "warning", "there is no Service ml-pipeline", remedy)
        return
    namespace = services[0]["metadata"]["namespace"]
    path = f"/api/v1/namespaces/{namespace}/services/ml-pipeline:8888/proxy/apis/v2beta1/healthz"
    try:
        cluster.ask("GET", path)
        yield Finding("pipelines", "ok", f"answers in namespace {namespace}")
    except ApiError as error:
        remedy = f"kubectl -n {namespace} get pods"
        yield Finding("pipelines", "warning", f"does not answer in namespace {namespace}: {error}", remedy)


def _exists(cluster: Cluster, kind: Kind, name: str) -> bool:
    """Whether an object is there; one that we may not see is taken for there."""
    try:
        cluster.ask("GET", cluster.path(kind, name))
    except ApiError as error:
        return error.status != 404
    return True


def _place(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"
