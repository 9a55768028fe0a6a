"""The store's credentials of a step's pods: temporary if the store has such, else those of the configured Secret."""

from __future__ import annotations

import base64
import dataclasses

from components.common.errors import UserError
from components.launcher.acquire import kind_of
from components.launcher.cluster import SECRETS, ApiError, Cluster, Object
from components.launcher.job import StageJob

_MARGIN_SECONDS = 3600


def give_credentials(cluster: Cluster, job: StageJob) -> StageJob:
    """Makes the Secret of a step's pods where the store has temporary credentials.

    They read what the step reads and write what it writes, and live as long as the step may take.

    Returns:
        The step, with the Secret's name.

    Raises:
        UserError: The Secret may not be made.
    """
    values = _session(job)
    if values is None:
        return job
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": job.name, "labels": job.labels},
        "type": "Opaque",
        "data": data,
    }
    try:
        cluster.create(SECRETS, body)
    except ApiError as error:
        if error.status != 409:
            raise UserError(
                f"the Secret for its pods cannot be made: {error.message}",
                where=job.title,
                hint="give the launcher the role rlhf-launcher",
            ) from error
        # An adopted job's next pods get fresh ones; a job that is replaced must not take them with it.
        cluster.patch(SECRETS, job.name, {"data": data, "metadata": {"ownerReferences": None}})
    return dataclasses.replace(job, secret=job.name)


def own_credentials(cluster: Cluster, job: StageJob, made: Object) -> None:
    """Makes a step's Secret go with its job."""
    if job.secret == job.name:
        owner = {
            "apiVersion": made.get("apiVersion") or kind_of(job).api.removeprefix("/apis/"),
            "kind": made.get("kind") or ("PyTorchJob" if job.is_training else "Job"),
            "name": job.name,
            "uid": made["metadata"]["uid"],
        }
        cluster.patch(SECRETS, job.name, {"metadata": {"ownerReferences": [owner]}})


def drop_credentials(cluster: Cluster, job: StageJob) -> None:
    """Deletes a step's Secret when there is no job that it could go with."""
    if job.secret == job.name and cluster.get(kind_of(job), job.name) is None:
        cluster.delete(SECRETS, job.name)


def _session(job: StageJob) -> dict[str, str] | None:
    """Temporary credentials as environment variables, or None."""
    if not job.root.startswith("s3://") or not job.writes:
        return None
    from components.common.sts import session_credentials

    given = session_credentials(job.root, job.reads, job.writes, job.config.deadline + _MARGIN_SECONDS)
    return given.environment() if given else None
