"""Following a job to its end, whatever happens to it, to its pods, or to the API server meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from components.common.errors import RetryableError, RlhfError, UserError
from components.common.logs import say
from components.common.store import Store
from components.launcher import reasons
from components.launcher.acquire import kind_of
from components.launcher.cluster import BROKEN, PODS, Cluster, Object
from components.launcher.job import StageJob
from components.launcher.job_logs import JobLogs, is_first
from components.launcher.run_objects import age_of, events_about, is_owned
from components.launcher.waits import Waits
from components.launcher.watch import Watched

TICK_SECONDS = 1.0


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
        self._waits = Waits(job, store, age_of(made), self._events)
        self._known: dict[str, Object] = {}  # pods as they were last seen: a failed job's pods are cleared away
        self._knows_pods = False  # those that come later have no earlier launcher
        self._is_gone = False
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
            if self._waits.cut_short:
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
            self._waits.say_once(name, note)
        self._waits.check(found, pods)
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


def _uid(item: Object) -> str:
    return str(item["metadata"]["uid"])


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])
