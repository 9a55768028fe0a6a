"""A step as a Kubernetes object, in plain form: a PyTorchJob for training and evaluation, a Job for the rest."""

from __future__ import annotations

from typing import Any

from kubernetes import client

from components.launcher.job import STEP, StageJob
from components.launcher.pod import CONTAINER, pod_template

OUTPUT = "rlhf-stack/output"
QUEUE = "kueue.x-k8s.io/queue-name"
# Only a backstop: the launcher takes jobs away once their logs are in the store.
TTL_SECONDS = 86400
BACKSTOP_SECONDS = 600  # by which the cluster's own deadline lies behind the launcher's, which says why
FATAL_CODES = (1, 2, 3)


def to_object(job: StageJob, owner: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object that runs a step.

    Args:
        job: The step.
        owner: An owner reference; the object goes when its owner does.
    """
    return to_pytorchjob(job, owner) if job.is_training else to_job(job, owner)


def to_pytorchjob(job: StageJob, owner: dict[str, Any] | None = None) -> dict[str, Any]:
    """A training step: one master pod, and workers where it has several nodes.

    `OnFailure` restarts a container in place, which then resumes from its checkpoint. A pod that is evicted or whose
    node is lost is made anew by the operator.
    """
    from kubeflow.training import models  # only whoever makes a training job needs them

    master = models.KubeflowOrgV1ReplicaSpec(replicas=1, restart_policy="OnFailure", template=pod_template(job))
    replicas = {"Master": master}
    if job.nodes > 1:
        replicas["Worker"] = models.KubeflowOrgV1ReplicaSpec(
            replicas=job.nodes - 1, restart_policy="OnFailure", template=pod_template(job)
        )
    policy = models.KubeflowOrgV1RunPolicy(
        clean_pod_policy="Running",  # finished pods keep their logs, the others give their GPUs back
        ttl_seconds_after_finished=TTL_SECONDS,
        active_deadline_seconds=job.config.deadline + BACKSTOP_SECONDS,
        # The operator sums restarts over all pods, and one lost pod makes its peers restart, too.
        backoff_limit=job.config.retries * job.nodes * (2 if job.nodes > 1 else 1),
    )
    made = models.KubeflowOrgV1PyTorchJob(
        api_version="kubeflow.org/v1",
        kind="PyTorchJob",
        metadata=_metadata(job, owner),
        spec=models.KubeflowOrgV1PyTorchJobSpec(
            nproc_per_node=str(job.processes), run_policy=policy, pytorch_replica_specs=replicas
        ),
    )
    return _plain(made)


def to_job(job: StageJob, owner: dict[str, Any] | None = None) -> dict[str, Any]:
    """A step without GPUs. Failures that another try cannot mend end the Job at once."""
    fatal = client.V1PodFailurePolicyOnExitCodesRequirement(
        container_name=CONTAINER, operator="In", values=list(FATAL_CODES)
    )
    disrupted = client.V1PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")
    rules = [
        client.V1PodFailurePolicyRule(action="Ignore", on_pod_conditions=[disrupted]),
        client.V1PodFailurePolicyRule(action="FailJob", on_exit_codes=fatal),
    ]
    made = client.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=_metadata(job, owner),
        spec=client.V1JobSpec(
            backoff_limit=job.config.retries,
            active_deadline_seconds=job.config.deadline + BACKSTOP_SECONDS,
            ttl_seconds_after_finished=TTL_SECONDS,
            pod_failure_policy=client.V1PodFailurePolicy(rules=rules),
            template=pod_template(job),
        ),
    )
    return _plain(made)


def _metadata(job: StageJob, owner: dict[str, Any] | None) -> client.V1ObjectMeta:
    queue = {QUEUE: job.config.queue_name} if job.config.queue_name and job.is_training else {}
    notes = {STEP: job.title, **({OUTPUT: job.output} if job.output else {})}
    return client.V1ObjectMeta(
        name=job.name,
        namespace=job.config.namespace or None,
        labels={**job.labels, **queue},
        annotations=notes,
        owner_references=[owner] if owner else None,
    )


def _plain(made: Any) -> dict[str, Any]:
    plain: dict[str, Any] = client.ApiClient().sanitize_for_serialization(made)
    if plain["kind"] == "PyTorchJob":  # each replica has its own policy; one in the template draws a warning
        for replica in plain["spec"]["pytorchReplicaSpecs"].values():
            del replica["template"]["spec"]["restartPolicy"]
    return plain
