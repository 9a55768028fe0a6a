"""What `helm test` looks at. Says what is well, and ends with exit code 1 at the first thing that is not."""

from __future__ import annotations

import io
import os
import sys
import time
import urllib.request
import uuid
from typing import Any
from urllib.parse import urlparse

JOBS = {"group": "kubeflow.org", "version": "v1", "plural": "pytorchjobs"}
NAME = "rlhf-smoke-test"
STEP_SECONDS = 600


def check_bucket() -> str:
    """The pipeline's credentials write, read and delete in the bucket."""
    from minio import Minio

    url, root = urlparse(os.environ["AWS_ENDPOINT_URL"]), urlparse(os.environ["RLHF_STORE"])
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    region, secure = os.environ["AWS_REGION"], url.scheme == "https"
    client = Minio(
        endpoint=url.netloc,
        access_key=key,
        secret_key=secret,
        session_token=os.environ.get("AWS_SESSION_TOKEN"),
        secure=secure,
        region=region,
    )
    path = "/".join(part for part in (root.path.strip("/"), "helm-test", uuid.uuid4().hex) if part)
    client.put_object(bucket_name=root.netloc, object_name=path, data=io.BytesIO(b"well"), length=4)
    try:
        answer = client.get_object(bucket_name=root.netloc, object_name=path)
        assert answer.read() == b"well", "what was written is not what was read"
    finally:
        client.remove_object(bucket_name=root.netloc, object_name=path)
    return f"{os.environ['RLHF_STORE']} can be written and read"


def step(name: str, container: str) -> dict[str, Any]:
    """A PyTorchJob of one pod without GPUs, as the launcher makes them."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    pod = {
        "serviceAccountName": "rlhf-stage",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": container,
                "image": os.environ["STEP_IMAGE"],
                "command": ["python", "-c", "print('well')"],
                "securityContext": restricted,
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
            }
        ],
    }
    template = {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}, "spec": pod}
    replica = {"replicas": 1, "restartPolicy": "Never", "template": template}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "None", "ttlSecondsAfterFinished": 600},
            "pytorchReplicaSpecs": {"Master": replica},
        },
    }


def check_crd(api: Any, namespace: str) -> str:
    """PyTorchJobs are known to the cluster, and the pipeline's account may list them."""
    api.list_namespaced_custom_object(**JOBS, namespace=namespace)
    return "PyTorchJobs can be listed"


def check_webhook(api: Any, namespace: str) -> str:
    """The training operator refuses a job that it could not run."""
    from kubernetes.client import ApiException

    deadline = time.monotonic() + 60
    while True:
        try:
            api.create_namespaced_custom_object(**JOBS, namespace=namespace, body=step(NAME, "other"), dry_run="All")
        except ApiException as error:
            if error.status < 500:
                return "the training operator's webhook answers"
            if time.monotonic() > deadline:  # for a moment after a start its Service may still lead nowhere
                raise
            time.sleep(2)
        else:
            raise AssertionError("a wrong PyTorchJob was taken: the training operator's webhook is not in place")


def check_step(api: Any, namespace: str) -> str:
    """A job of one step runs to its end."""
    from kubernetes.client import ApiException

    try:
        api.delete_namespaced_custom_object(**JOBS, namespace=namespace, name=NAME)
        time.sleep(5)
    except ApiException as error:
        if error.status != 404:
            raise
    began = time.monotonic()
    api.create_namespaced_custom_object(**JOBS, namespace=namespace, body=step(NAME, "pytorch"))
    try:
        while time.monotonic() - began < STEP_SECONDS:
            job = api.get_namespaced_custom_object(**JOBS, namespace=namespace, name=NAME)
            conditions = {seen["type"]: seen for seen in job.get("status", {}).get("conditions") or []}
            if conditions.get("Failed", {}).get("status") == "True":
                raise AssertionError(f"the step failed: {conditions['Failed'].get('message')}")
            if conditions.get("Succeeded", {}).get("status") == "True":
                return f"a step ran in {time.monotonic() - began:.0f} s"
            time.sleep(1)
        raise AssertionError(f"the step did not end in {STEP_SECONDS} s; conditions: {sorted(conditions)}")
    finally:
        api.delete_namespaced_custom_object(**JOBS, namespace=namespace, name=NAME)


def check_kfp(url: str) -> str:
    """The API server of Kubeflow Pipelines answers."""
    with urllib.request.urlopen(f"{url}/apis/v2beta1/healthz", timeout=30) as answer:
        assert answer.status == 200, f"status {answer.status}"
    return "Kubeflow Pipelines answers"


def main() -> int:
    """Runs all checks; returns the exit code."""
    from kubernetes import client, config

    config.load_incluster_config()
    api, namespace, kfp = client.CustomObjectsApi(), os.environ["NAMESPACE"], os.environ["KFP_URL"]
    checks = [
        (check_bucket, ()),
        (check_crd, (api, namespace)),
        (check_webhook, (api, namespace)),
        *([(check_kfp, (kfp,))] if kfp else []),
        (check_step, (api, namespace)),
    ]
    for check, arguments in checks:
        try:
            print(f"ok: {check(*arguments)}", flush=True)  # type: ignore[operator]
        except Exception as error:
            print(f"failed: {check.__name__.removeprefix('check_')}: {error}", file=sys.stderr, flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
