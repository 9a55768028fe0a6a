"""The state of some objects of a cluster, kept up to date: list, watch, and both again after whatever happens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping

from components.common.errors import RetryableError, RlhfError
from components.launcher.cluster import BROKEN, PATIENCE_SECONDS, ApiError, Cluster, Kind, Object, refused, selectors

# The server ends a watch after so long, and a connection that died in silence is noticed soon after.
WATCH_SECONDS = 50
SILENCE_SECONDS = 60.0
SHORTEST_SECONDS = 1.0  # a watch that was open for so long is one
_PAUSES = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_PASSING = (408, 410, 429)  # 410: the server has forgotten the version we know, and a new list tells it


class Watched(threading.Thread):
    """Objects of one kind by uid, as the API server last told. Whoever waits on `changed` is told of every change.

    `changes` counts them, so that one that comes while somebody looks is not missed by whoever waits then.

    Args:
        cluster: Where they are.
        kind: What they are.
        changed: Notified after every change.
        labels: That they have.
        fields: Field selector.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        changed: threading.Condition,
        labels: Mapping[str, str] | None = None,
        fields: str = "",
    ) -> None:
        super().__init__(name=f"watch-{kind.plural}", daemon=True)
        self._cluster, self._kind, self._changed = cluster, kind, changed
        self._labels, self._fields = labels, fields
        self._objects: dict[str, Object] = {}
        self._version = ""
        self._failures, self._heard = 0, time.monotonic()
        self._stopped = False
        self._error: Exception | None = None
        self.listed = False
        self.changes = 0

    def objects(self) -> list[Object]:
        """The objects, oldest first.

        Raises:
            RlhfError: They cannot be known any more: the API server is gone for good, or refuses.
        """
        if self._error is not None:
            raise self._error
        return sorted(self._objects.values(), key=lambda item: str(item["metadata"].get("creationTimestamp")))

    def find(self, uid: str) -> Object | None:
        """One object, or None when it is gone."""
        return self._objects.get(uid)

    def wait_until_listed(self, seconds: float) -> None:
        """Waits until the objects are known.

        Raises:
            RlhfError: They cannot be known, or are not after so long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.listed or self._error is not None, seconds)
        self.objects()
        if not self.listed:
            raise RetryableError(
                f"has not told of {self._kind.plural} in {seconds:.0f} s",
                where=self._cluster.api.configuration.host,
                hint="see whether the API server answers",
            )

    def stop(self) -> None:
        """Ends the thread at its next word from the server."""
        self._stopped = True

    def run(self) -> None:
        self._is_well()
        while not self._stopped:
            try:
                self._version = self.refresh()
                while not self._stopped:
                    self._watch()
            except (ApiError, *BROKEN) as error:
                what = self._end_of(error)
                if what is not None:
                    self._give_up(what)
                    return
                time.sleep(_PAUSES[min(self._failures, len(_PAUSES) - 1)])
                self._failures += 1
            except Exception as error:  # whoever waits must hear of it
                self._give_up(error)
                return

    def _end_of(self, error: Exception) -> RlhfError | None:
        """The error that ends the watching, if another try would not help or has been made for long enough."""
        if isinstance(error, ApiError) and 400 <= error.status < 500 and error.status not in _PASSING:
            return refused(error, f"watch {self._kind.plural}", self._cluster.namespace)
        if time.monotonic() - self._heard <= PATIENCE_SECONDS:
            return None
        return RetryableError(
            f"{self._kind.plural} have not been heard of for {PATIENCE_SECONDS:.0f} s: {error}",
            where=self._cluster.api.configuration.host,
            hint="the job goes on without us: the same command adopts it",
        )

    def refresh(self) -> str:
        """Asks for the objects as they are now; returns the version that a watch goes on from."""
        found = self._cluster.list_with_version(self._kind, self._labels, self._fields)
        with self._changed:
            self._objects = {item["metadata"]["uid"]: item for item in found["items"]}
            self.listed = True
            self._tell()
        return str(found["metadata"].get("resourceVersion", ""))

    def _watch(self) -> None:
        """One watch to its end. One that ends at once with nothing to tell is a failure, else we ask without rest."""
        query = {
            **selectors(self._labels, self._fields),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "resourceVersion": self._version,
        }
        began = time.monotonic()
        response = self._cluster.open("GET", self._cluster.path(self._kind), query, None, SILENCE_SECONDS)
        try:
            for line in lines_of(response.stream(65536)):
                self._take(line)
                self._is_well()
        finally:
            response.close()
            if time.monotonic() - began > SHORTEST_SECONDS:  # nothing happened, or it was cut
                self._is_well()
        if self._heard < began:
            raise ConnectionError("the watch ended as soon as it began")

    def _is_well(self) -> None:
        self._failures, self._heard = 0, time.monotonic()

    def _take(self, line: bytes) -> None:
        event = json.loads(line)
        item = event["object"]
        if event["type"] == "ERROR":
            raise ApiError(int(item.get("code", 500)), str(item.get("message")))
        self._version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        with self._changed:
            if event["type"] == "DELETED":
                self._objects.pop(item["metadata"]["uid"], None)
            else:
                self._objects[item["metadata"]["uid"]] = item
            self._tell()

    def _tell(self) -> None:
        self.changes += 1
        self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._tell()


def lines_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines of a stream without their ends; what follows the last newline is dropped."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
