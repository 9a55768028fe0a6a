"""The logs of a job's pods: those of rank 0 to our own output, those of all into the store."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

from components.common.errors import RlhfError
from components.common.logs import MARK, say
from components.common.store import Store
from components.launcher.cluster import Cluster, Object
from components.launcher.job import StageJob
from components.launcher.log_lines import Line, SeenLines
from components.launcher.log_store import StoredLog
from components.launcher.pod_logs import PodLog
from components.launcher.watch import Watched

FLUSH_SECONDS = 10.0
KEPT_LINES = 20
FINISH_SECONDS = 10.0
AGAIN_SECONDS = 5.0


class JobLogs:
    """Follows every pod of a job.

    Args:
        cluster: Where the job is.
        job: The step.
        store: Where the logs are kept.
        pods: The job's pods.
        changed: Notified when they change.
    """

    def __init__(
        self, cluster: Cluster, job: StageJob, store: Store, pods: Watched, changed: threading.Condition
    ) -> None:
        self._cluster, self._job, self._store = cluster, job, store
        self._pods, self._changed = pods, changed
        self._followed: dict[str, PodLog] = {}
        self._stored: dict[str, StoredLog] = {}
        self._flushed = time.monotonic()
        self._complained = False
        self.last_lines: dict[str, deque[str]] = {}

    def follow(self, pods: list[Object], *, resume: bool) -> None:
        """Begins to follow the pods that are new, and stores what was read.

        Args:
            pods: The job's pods.
            resume: Whether an earlier launcher may have stored lines of the new ones, so that the store is asked first.
        """
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in self._followed:
                self._followed[uid] = self._begin(pod, resume)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def finish(self) -> None:
        """Reads what the pods have written last, and stores it."""
        end = time.monotonic() + FINISH_SECONDS
        for log in self._followed.values():
            log.finish(max(0.1, end - time.monotonic()))
        self.flush()

    def flush(self) -> None:
        """Stores what was read. A store that is gone is complained of once and tried again: the job goes on."""
        self._flushed = time.monotonic()
        for log in self._stored.values():
            try:
                log.flush()
            except RlhfError as error:
                self._complain(error)
                return

    def _complain(self, error: RlhfError) -> None:
        if not self._complained:
            say(self._job.title, f"the logs cannot be stored for now: {error}")
        self._complained = True

    def _begin(self, pod: Object, resume: bool) -> PodLog:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        stored = StoredLog(self._store, f"{self._job.work}/logs", f"{name}.{uid[:8]}")
        kept = self.last_lines.setdefault(name, deque(maxlen=KEPT_LINES))
        aloud = is_first(pod)

        def take(line: Line) -> None:
            kept.append(line.text)
            stored.append(line)
            if aloud:
                print_line(self._job, line.text)

        def recall() -> SeenLines:
            while resume:
                try:
                    return SeenLines(stored.resume())
                except RlhfError as error:  # what is stored must not be written over: no line before it is known
                    self._complain(error)
                    time.sleep(AGAIN_SECONDS)
            return SeenLines()

        self._stored[uid] = stored
        log = PodLog(self._cluster, lambda: self._pods.find(uid), self._changed, take, recall)
        log.start()
        return log


def is_first(pod: Object) -> bool:
    """Whether rank 0 is in a pod: the master of a PyTorchJob, the only one of a Job."""
    return bool(pod["metadata"]["labels"].get("training.kubeflow.org/replica-type", "master") == "master")


def print_line(job: StageJob, text: str) -> None:
    """Prints a pod's line as it is; `rlhf run` is told which are the step's own."""
    ours = os.environ.get("RLHF_MARK_LINES") and text.startswith((f"{job.stage} ", '{"ts"'))
    print(f"{MARK if ours else ''}{text}", flush=True)
