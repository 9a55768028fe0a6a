"""The store's credentials of a step's pods: temporary if the store has such, else those of the configured Secret."""

from __future__ import annotations

import base64
import dataclasses
import math
import time
from datetime import UTC, datetime

from components.common.errors import RlhfError, UserError
from components.common.logs import say
from components.common.store import is_s3
from components.launcher.acquire import kind_of
from components.launcher.cluster import SECRETS, ApiError, Cluster, Object
from components.launcher.job import StageJob
from components.launcher.pod import KEYS_FILE

# Beyond the deadline: the keys outlive a job whose launcher is gone, and so cannot renew them.
_MARGIN_SECONDS = 3600
AGAIN_SECONDS = 60.0  # after a renewal that failed; half of the old keys' time is left for others


class StoreKeys:
    """The Secret with the temporary keys of a step's pods.

    They read what the step reads and write what it writes, and live as long as the step may take or as the store
    allows. The pods have them as a file, which the kubelet replaces a minute or two after the Secret.

    Args:
        cluster: Where the step runs.
        job: The step.
    """

    def __init__(self, cluster: Cluster, job: StageJob) -> None:
        self._cluster, self._job = cluster, job
        self._data: dict[str, str] = {}
        self._owner: Object | None = None
        self._due = math.inf  # by our clock

    def give(self) -> StageJob:
        """Makes the Secret where the store has temporary keys.

        Returns:
            The step, with the Secret's name.

        Raises:
            UserError: The Secret may not be made, or the store refuses to give these keys though it gives others.
        """
        if self._ask():
            # An adopted job's pods get fresh ones; a job that is replaced must not take them with it.
            self._put()
            self._job = dataclasses.replace(self._job, secret=self._job.name)
        elif self._is_wanted:
            say(
                self._job.title,
                "the store gives no temporary keys: its pods get the configured ones, which open it all",
            )
        return self._job

    def belong_to(self, made: Object) -> None:
        """Makes the Secret go with the step's job.

        Raises:
            UserError: It may not be changed.
        """
        if self._job.secret:
            job = self._job
            self._owner = {
                "apiVersion": made.get("apiVersion") or kind_of(job).api.removeprefix("/apis/"),
                "kind": made.get("kind") or ("PyTorchJob" if job.is_training else "Job"),
                "name": job.name,
                "uid": made["metadata"]["uid"],
            }
            self._put()

    def drop(self) -> None:
        """Deletes the Secret when there is no job that it could go with."""
        if self._job.secret and self._cluster.get(kind_of(self._job), self._job.name) is None:
            self._cluster.delete(SECRETS, self._job.name)

    def renew(self) -> None:
        """Puts new keys into the Secret when half the time of the old ones is over; else does nothing."""
        if time.monotonic() < self._due:
            return
        try:
            if self._ask():
                self._put()
                return
            why = "the store gives none any more"
        except RlhfError as error:
            why = str(error)
        self._due = time.monotonic() + AGAIN_SECONDS
        say(self._job.title, f"the keys of its pods cannot be renewed for now: {why}")

    @property
    def _is_wanted(self) -> bool:
        """Whether the step is one whose folders are known, in a store that has keys."""
        return is_s3(self._job.root) and bool(self._job.writes)

    def _ask(self) -> bool:
        """Asks the store for keys; False where the step gets the configured ones."""
        job = self._job
        if not self._is_wanted:
            return False
        from components.common.sts import session_credentials

        given = session_credentials(job.root, job.reads, job.writes, job.config.deadline + _MARGIN_SECONDS)
        if given is None:
            return False
        self._data = {KEYS_FILE: base64.b64encode(given.text().encode()).decode()}
        self._due = time.monotonic() + (given.expires - datetime.now(UTC)).total_seconds() / 2
        return True

    def _put(self) -> None:
        """Makes the Secret, or changes the one that is there: it may have gone with the job before this one."""
        job, owners = self._job, [self._owner] if self._owner else None
        metadata = {"name": job.name, "labels": job.labels, **({"ownerReferences": owners} if owners else {})}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": self._data}
        try:
            self._cluster.create(SECRETS, body)
        except ApiError as error:
            if error.status != 409:
                raise UserError(
                    f"the Secret for its pods cannot be made: {error.message}",
                    where=job.title,
                    hint="give the launcher the role rlhf-launcher",
                ) from error
            self._cluster.patch(SECRETS, job.name, {"data": self._data, "metadata": {"ownerReferences": owners}})
