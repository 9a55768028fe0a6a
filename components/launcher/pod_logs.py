"""One pod's log, line by line, from its first container to its last: nothing lost, nothing twice.

The API server's log streams end for many reasons: the container ended, the connection was cut, the API server or the
kubelet was restarted, the log was rotated. Only the pod's status tells which.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import urllib3

from components.launcher.cluster import BROKEN, PODS, ApiError, Cluster, Object
from components.launcher.log_lines import Line, SeenLines
from components.launcher.pod import CONTAINER
from components.launcher.watch import SHORTEST_SECONDS, SILENCE_SECONDS

_PAUSES = (0.1, 0.25, 0.5, 1.0)


class PodLog(threading.Thread):
    """Follows a pod's log until the pod has ended for good.

    Args:
        cluster: Where the pod is.
        pod: The pod as it is now, or None when it is gone.
        changed: Notified when `pod` gives something else.
        take: Called with every line, in order.
        seen: Gives the lines that an earlier reader has taken. Called in this thread: it may take its time.
        container: Whose log; by default that of a job's pod.
    """

    def __init__(
        self,
        cluster: Cluster,
        pod: Callable[[], Object | None],
        changed: threading.Condition,
        take: Callable[[Line], None],
        seen: Callable[[], SeenLines] = SeenLines,
        container: str = CONTAINER,
    ) -> None:
        first = pod()
        assert first is not None, "a log is followed once its pod is there"
        self._pod_name = first["metadata"]["name"]
        super().__init__(name=f"log-{self._pod_name}", daemon=True)
        self._cluster, self._pod, self._changed, self._take, self._recall = cluster, pod, changed, take, seen
        self._seen = SeenLines()
        self._failures = 0
        self._container = container
        self._response: urllib3.BaseHTTPResponse | None = None
        self._to_finish = False
        self._read_whole = 0  # containers of this pod, counted from its first, whose last line was read

    def finish(self, seconds: float) -> None:
        """Reads what there is now and ends: the pod is known to have ended, or is to be left."""
        with self._changed:
            self._to_finish = True
            self._changed.notify_all()
        response = self._response
        if response is not None:
            _cut(response)
        self.join(seconds)

    def run(self) -> None:
        self._seen = self._recall()
        while True:
            pod = self._pod()
            if pod is None:
                return
            try:
                if self._step(pod):
                    return
                self._failures = 0
            except (ApiError, *BROKEN):
                self._failures += 1
                if self._to_finish and self._failures > len(_PAUSES):
                    return
                self._wait(_PAUSES[min(self._failures, len(_PAUSES)) - 1])

    def _step(self, pod: Object) -> bool:
        """Reads what a pod in this state has; returns whether that was all there will ever be."""
        state, restarts = container_state(pod, self._container)
        if restarts > self._read_whole:
            self._read_previous()
            self._read_whole = restarts
        finishing = self._to_finish
        if state == "waiting":
            if finishing:
                return True
            self._wait_for_change(pod)
            return False
        if state == "running" and not finishing:
            self._read(follow=True)
            self._wait(_PAUSES[0])  # the pod's status is a little behind its log's end
            return False
        if self._read_whole <= restarts:
            self._read(follow=False)
            self._read_whole = restarts + 1
        if finishing or is_over(pod):
            return True
        self._wait_for_change(pod)
        return False

    def _read_previous(self) -> None:
        try:
            self._read(follow=False, previous=True)
        except ApiError as error:
            if error.status not in (400, 404):  # else the kubelet has thrown that container's log away
                raise

    def _read(self, *, follow: bool, previous: bool = False) -> None:
        since = self._seen.since()
        query = {
            "container": self._container,
            "timestamps": "true",
            **({"sinceTime": since} if since else {}),
            **({"previous": "true"} if previous else {}),
            **({"follow": "true"} if follow else {}),
        }
        path = f"{self._cluster.path(PODS, self._pod_name)}/log"
        self._seen.begin()
        response = self._cluster.open("GET", path, query, None, SILENCE_SECONDS)
        self._response = response
        rest, began = b"", time.monotonic()
        try:
            if follow and self._to_finish:
                return
            for chunk in response.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._line(line)
            if rest and not follow:  # a program may end without ending its last line
                self._line(rest)
        finally:
            self._response = None
            response.close()
            if time.monotonic() - began > SHORTEST_SECONDS:  # a log in which nothing is written is no failure
                self._failures = 0

    def _line(self, raw: bytes) -> None:
        line = Line.parse(raw.decode(errors="replace"))
        if self._seen.is_new(line):
            self._take(line)

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._to_finish, seconds)

    def _wait_for_change(self, pod: Object) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._to_finish or self._pod() is not pod)


def container_state(pod: Object, container: str = CONTAINER) -> tuple[str, int]:
    """Whether the container waits, runs or has ended, and how often it was restarted."""
    for status in pod.get("status", {}).get("containerStatuses", []):
        if status["name"] == container:
            ended = "terminated" in status.get("state", {}) or "terminated" in status.get("lastState", {})
            running = "running" in status.get("state", {})
            return ("running" if running else "ended" if ended else "waiting"), int(status["restartCount"])
    return "waiting", 0


def is_over(pod: Object) -> bool:
    """Whether no container of a pod will run again."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _cut(response: urllib3.BaseHTTPResponse) -> None:
    """Wakes the thread that reads; closing alone would let it wait."""
    try:
        response.shutdown()
    except (ValueError, OSError):  # it has ended by itself
        return
