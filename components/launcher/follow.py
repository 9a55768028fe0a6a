"""Following a job to its end, whatever happens to it, to its pods, or to the API server meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from components.common.errors import RetryableError, RlhfError, UserError
from components.common.logs import say
from components.common.store import Store
from components.launcher import reasons
from components.launcher.acquire import OPERATOR_SECONDS, kind_of
from components.launcher.cluster import BROKEN, PODS, Cluster, Object
from components.launcher.heartbeat import READ_SECONDS, Heartbeat
from components.launcher.job import StageJob
from components.launcher.job_logs import JobLogs, is_first
from components.launcher.run_objects import age_of, events_about, is_owned
from components.launcher.watch import Watched

TICK_SECONDS = 1.0
EVENTS_SECONDS = 10.0  # a namespace may have thousands of events: they are asked for now and then only
HOPE_SECONDS = 20.0  # a missing Secret may be about to come, a registry may have hiccuped


class StalledError(RetryableError):
    """A training step has given no heartbeat for too long."""


class Follower:
    """Follows one job.

    Args:
        cluster: Where it is.
        job: The step that it runs.
        made: The object.
        store: The run's store.
        committed: Whether the step's result is in the store.
        cancelled: Whether somebody has cancelled the run.
        renew: Called again and again: keeps what its pods need from running out.
    """

    def __init__(
        self,
        cluster: Cluster,
        job: StageJob,
        made: Object,
        store: Store,
        committed: Callable[[], bool],
        cancelled: Callable[[], bool],
        renew: Callable[[], None],
    ) -> None:
        self._cluster, self._job, self._made = cluster, job, made
        self._committed, self._cancelled, self._renew = committed, cancelled, renew
        self._changed = threading.Condition()
        self._jobs = Watched(cluster, kind_of(job), self._changed, fields=f"metadata.name={job.name}")
        self._pods = Watched(cluster, PODS, self._changed, labels=job.labels)
        self._logs = JobLogs(cluster, job, store, self._pods, self._changed)
        self._heartbeat = Heartbeat(
            store, f"{job.work}/heartbeat.json", min(READ_SECONDS, job.config.stall_timeout / 4)
        )
        self._pending_since = self._hoped = time.monotonic()
        self._asked = -EVENTS_SECONDS
        self._began = time.monotonic() - age_of(made)
        self._known: dict[str, Object] = {}  # pods as they were last seen: a failed job's pods are cleared away
        self._said: set[str] = set()
        self._knows_pods = False  # those that come later have no earlier launcher
        self._is_gone = False
        self._cut_short = False  # whether the job is ended by us while its pods run
        self.has_judged = False  # whether an error is about the job; else we could not see it, and it may be well

    def follow(self) -> None:
        """Returns when the job has succeeded.

        Raises:
            RlhfError: It has failed, cannot start, takes too long, was cancelled or deleted.
            StalledError: It hangs.
        """
        self._jobs.start()
        self._pods.start()
        try:
            while not self._look_and_wait():
                self._renew()
        except RlhfError:
            if self._cut_short:
                self._hear_out()
            self._finish_logs()
            if not self._is_gone:
                self._tell_more()
            raise
        finally:
            self._jobs.stop()
            self._pods.stop()
        self._finish_logs()

    def _look_and_wait(self) -> bool:
        """Whether the job has succeeded; if it has not, waits for a change, which may have come while we looked."""
        known = self._changes()
        if self._look():
            return True
        with self._changed:
            self._changed.wait_for(lambda: self._changes() != known, TICK_SECONDS)
        return False

    def _changes(self) -> int:
        return self._jobs.changes + self._pods.changes

    def _hear_out(self) -> None:
        """Ends the job, and listens until its pods are gone: they may save a checkpoint, and say what they were at."""
        self._cluster.delete(kind_of(self._job), self._job.name)
        end = time.monotonic() + self._job.config.grace_period + TICK_SECONDS
        with self._changed:
            while time.monotonic() < end and self._own_pods():
                self._changed.wait(TICK_SECONDS)

    def _finish_logs(self) -> None:
        """Reads the pods' last lines. The job may be known to have ended before its last pod is known to have begun."""
        try:
            self._pods.refresh()
            self._logs.follow(self._own_pods(), resume=not self._knows_pods)
        except (RlhfError, *BROKEN) as error:
            say(self._job.title, f"the end of the log may be missing: {error}")
        self._logs.finish()

    def _look(self) -> bool:
        """Whether the job has succeeded, by the latest that is known."""
        self.has_judged = False
        known_at_all = self._jobs.listed and self._pods.listed  # asked first: a list may come while we look
        pods = self._own_pods()
        found = next((item for item in self._jobs.objects() if _uid(item) == _uid(self._made)), None)
        self._known.update({_uid(pod): pod for pod in pods})
        self._logs.follow(pods, resume=not self._knows_pods)
        self._knows_pods |= known_at_all
        if not known_at_all:
            return False
        self.has_judged = True
        if found is None:
            return self._gone()
        if reasons.has_succeeded(found):
            return True
        known = list(self._known.values())
        error = reasons.fatal_end(self._job, known)
        if error is None and reasons.failure_condition(found):
            error = reasons.failure_of(self._job, found, known)
        if error is not None:
            raise error
        for name, note in reasons.restart_notes(self._job, known).items():
            self._say_once(name, note)
        self._check_times(found, pods)
        return False

    def _own_pods(self) -> list[Object]:
        """The pods of this very job, not of one of the same name before it."""
        return [pod for pod in self._pods.objects() if is_owned(pod, [_uid(self._made)])]

    def _gone(self) -> bool:
        if self._committed():
            return True
        self._is_gone = True
        if self._cancelled():
            raise UserError("the run was cancelled", where=self._job.title)
        raise RetryableError(
            f"job {self._job.name} was deleted by somebody else", where=self._job.title, hint="run the same again"
        )

    def _check_times(self, found: Object, pods: list[Object]) -> None:
        job, now = self._job, time.monotonic()
        live = [pod for pod in pods if not reasons.has_failed(pod)]  # a Job keeps its failed pod beside the new one
        if now - self._began > job.config.deadline:
            self._cut_short = True
            raise reasons.past_deadline(job)
        if reasons.condition(found, "Suspended"):
            self._pending_since = now
            self._say_once("suspended", f"waits in queue {job.config.queue_name}")
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
            self._say_once(waiting, f"waits: {waiting}")
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
            self._cut_short = True
            raise StalledError(
                f"hangs: no heartbeat for {job.config.stall_timeout} s{f' after step {step}' if step else ''}",
                where=job.title,
                hint="its log ends with what each process did; raise launcher.stall_timeout if it is only slow",
            )

    def _tell_more(self) -> None:
        """Says what a person would ask next: warnings of the cluster, last lines of pods that were not shown."""
        for text in reasons.told_by(self._events()):
            say(self._job.title, f"event {text}")
        shown = {_name(pod) for pod in self._known.values() if is_first(pod)}
        for name, lines in self._logs.last_lines.items():
            for line in lines if name not in shown else ():
                say(self._job.title, f"{name}: {line}")

    def _events(self) -> list[Object]:
        return events_about(self._cluster, [self._job.name, *(_name(pod) for pod in self._known.values())])

    def _say_once(self, name: str, text: str) -> None:
        if name not in self._said:
            self._said.add(name)
            say(self._job.title, text)


def _uid(item: Object) -> str:
    return str(item["metadata"]["uid"])


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])
