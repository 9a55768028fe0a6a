"""Ending a run's jobs: those that carry its label, whoever made them."""

from __future__ import annotations

from components.launcher.cluster import SECRETS, WORKFLOWS, ApiError, Cluster
from components.launcher.job import LABEL_RUN
from components.launcher.run_objects import jobs_of, workflows_of


def delete_jobs(cluster: Cluster, run: str) -> list[str]:
    """Deletes a run's jobs and what belongs to them; returns their names.

    Their pods are told to stop at once, and have their grace period for a last checkpoint.
    """
    names = []
    for kind, item in jobs_of(cluster, run):
        cluster.delete(kind, item["metadata"]["name"])
        names.append(item["metadata"]["name"])
    for secret in cluster_secrets(cluster, run):
        cluster.delete(SECRETS, secret)
    return names


def cluster_secrets(cluster: Cluster, run: str) -> list[str]:
    """Names of the Secrets that a run's launchers made; one may be left of a launcher that was killed early."""
    try:
        found = cluster.ask("GET", cluster.path(SECRETS), {"labelSelector": f"{LABEL_RUN}={run}"})
    except ApiError:  # the launcher's role does not list Secrets; those of jobs go with them
        return []
    return [item["metadata"]["name"] for item in found["items"]]


def terminate_workflow(cluster: Cluster, run: str) -> bool:
    """Ends the Argo Workflow of a run of Kubeflow Pipelines as its own API does; returns whether there was one."""
    found = workflows_of(cluster, run) or []
    for item in found:
        cluster.patch(WORKFLOWS, item["metadata"]["name"], {"spec": {"activeDeadlineSeconds": 0}})
    return bool(found)
