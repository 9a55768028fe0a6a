"""Deletes training jobs whose workflow has ended without them."""

from __future__ import annotations

import os
import sys
from typing import Any

ENDED = ("Succeeded", "Failed", "Error")
JOBS = {"group": "kubeflow.org", "version": "v1", "plural": "pytorchjobs"}
WORKFLOWS = {"group": "argoproj.io", "version": "v1alpha1", "plural": "workflows"}


def is_over(job: dict[str, Any]) -> bool:
    """Whether a job has succeeded or failed; such a job holds no GPU."""
    conditions = job.get("status", {}).get("conditions") or []
    return any(seen["type"] in ("Succeeded", "Failed") and seen["status"] == "True" for seen in conditions)


def workflow_of(job: dict[str, Any]) -> str:
    """Name of the workflow that a job belongs to; empty for a job that no workflow made."""
    owners = job["metadata"].get("ownerReferences") or []
    return next((str(owner["name"]) for owner in owners if owner["kind"] == "Workflow"), "")


def main() -> int:
    """Looks once at all our jobs; returns the exit code."""
    from kubernetes import client, config

    config.load_incluster_config()
    api, namespace = client.CustomObjectsApi(), os.environ["NAMESPACE"]
    found = api.list_namespaced_custom_object(**JOBS, namespace=namespace, label_selector="rlhf-stack/run")
    for job in found["items"]:
        workflow, name = workflow_of(job), job["metadata"]["name"]
        if is_over(job) or not workflow:
            continue
        try:
            seen = api.get_namespaced_custom_object(**WORKFLOWS, namespace=namespace, name=workflow)
            phase = seen.get("status", {}).get("phase", "")
        except client.ApiException as error:
            if error.status != 404:
                raise
            phase = "deleted"
        if phase in (*ENDED, "deleted"):
            api.delete_namespaced_custom_object(**JOBS, namespace=namespace, name=name)
            print(f"deleted {name}: its workflow {workflow} is {phase}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
