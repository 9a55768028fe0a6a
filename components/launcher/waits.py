"""How long a job may take to start, to go on and to end."""

from __future__ import annotations

import time
from collections.abc import Callable

from components.common.errors import RetryableError, UserError
from components.common.logs import say
from components.common.store import Store
from components.launcher import reasons
from components.launcher.acquire import OPERATOR_SECONDS
from components.launcher.cluster import Object
from components.launcher.heartbeat import READ_SECONDS, Heartbeat
from components.launcher.job import StageJob

EVENTS_SECONDS = 10.0  # a namespace may have thousands of events: they are asked for now and then only
HOPE_SECONDS = 20.0  # a missing Secret may be about to come, a registry may have hiccuped


class StalledError(RetryableError):
    """A training step has given no heartbeat for too long."""


class Waits:
    """What is waited for in the life of one job, and since when.

    Args:
        job: The step that it runs.
        store: The run's store.
        age: Seconds since it was made.
        events: Asks the cluster for the events about it and its pods.
    """

    def __init__(self, job: StageJob, store: Store, age: float, events: Callable[[], list[Object]]) -> None:
        self._job, self._events = job, events
        self._heartbeat = Heartbeat(
            store, f"{job.work}/heartbeat.json", min(READ_SECONDS, job.config.stall_timeout / 4)
        )
        self._pending_since = self._hoped = time.monotonic()
        self._asked = -EVENTS_SECONDS
        self._began = time.monotonic() - age
        self._said: set[str] = set()
        self.cut_short = False  # whether the job is ended by us while its pods run

    def check(self, found: Object, pods: list[Object]) -> None:
        """Looks at a job that has not ended.

        Args:
            found: The job.
            pods: Its own pods.

        Raises:
            RlhfError: It takes too long, or cannot start.
            StalledError: It hangs.
        """
        job, now = self._job, time.monotonic()
        live = [pod for pod in pods if not reasons.has_failed(pod)]  # a Job keeps its failed pod beside the new one
        if now - self._began > job.config.deadline:
            self.cut_short = True
            raise reasons.past_deadline(job)
        if reasons.condition(found, "Suspended"):
            self._pending_since = now
            self.say_once("suspended", f"waits in queue {job.config.queue_name}")
        elif not pods:
            self._check_operator(found, now - self._pending_since)
        elif len(live) == job.nodes and all(map(reasons.is_started, live)):
            self._pending_since = self._hoped = now
            self._check_progress()
            return
        self._heartbeat.reset()
        self._check_pending(pods, now)

    def _check_pending(self, pods: list[Object], now: float) -> None:
        job, waiting = self._job, reasons.waiting_reason(pods)
        if waiting:
            self.say_once(waiting, f"waits: {waiting}")
        hopeless = reasons.hopeless_wait(job, pods)
        if hopeless is None:
            self._hoped = now
        elif now - self._hoped > HOPE_SECONDS:
            raise hopeless
        if now - self._pending_since > job.config.pending_timeout:
            raise RetryableError(
                f"has not started after {job.config.pending_timeout} s: {waiting or 'its pods are being made'}",
                where=job.title,
                hint="free or add nodes, or change launcher.gpus_per_node, resources, placement or tolerations",
            )

    def _check_operator(self, found: Object, waited: float) -> None:
        """Sees why a job has no pods."""
        if waited < OPERATOR_SECONDS or time.monotonic() - self._asked < EVENTS_SECONDS:
            return
        self._asked = time.monotonic()
        refusals = [
            text for text in reasons.told_by(self._events()) if "ailedCreate" in text or "rror creating" in text
        ]
        if refusals:
            raise UserError(
                f"no pod can be made: {refusals[-1]}", where=self._job.title, hint="see quotas, policies and accounts"
            )
        if self._job.is_training and reasons.condition(found, "Created") is None:
            raise RetryableError(
                f"the training operator has not taken the job up in {OPERATOR_SECONDS:.0f} s",
                where=self._job.title,
                hint="see whether it runs, and whether it watches this namespace",
            )

    def _check_progress(self) -> None:
        job = self._job
        if job.is_training and self._heartbeat.silence() > job.config.stall_timeout:
            step = self._heartbeat.step
            self.cut_short = True
            raise StalledError(
                f"hangs: no heartbeat for {job.config.stall_timeout} s{f' after step {step}' if step else ''}",
                where=job.title,
                hint="its log ends with what each process did; raise launcher.stall_timeout if it is only slow",
            )

    def say_once(self, name: str, text: str) -> None:
        """Says something about the job, unless something of that name has been said."""
        if name not in self._said:
            self._said.add(name)
            say(self._job.title, text)
