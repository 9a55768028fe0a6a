"""The state of some objects of a cluster, kept up to date: list, watch, and both again after whatever happens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping

from components.common.errors import RetryableError
from components.launcher.cluster import BROKEN, PATIENCE_SECONDS, ApiError, Cluster, Kind, Object, selectors

# The server ends a watch after so long, and a connection that died in silence is noticed soon after.
WATCH_SECONDS = 50
SILENCE_SECONDS = 60.0
_PAUSES = (0.1, 0.25, 0.5, 1.0, 2.0)


class Watched(threading.Thread):
    """Objects of one kind by uid, as the API server last told. Whoever waits on `changed` is told of every change.

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
        self._stopped = False
        self._error: Exception | None = None
        self.listed = False

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

    def stop(self) -> None:
        """Ends the thread at its next word from the server."""
        self._stopped = True

    def run(self) -> None:
        failures, since = 0, time.monotonic()
        while not self._stopped:
            try:
                version = self.refresh()
                failures, since = 0, time.monotonic()
                for line in self._events(version):
                    since = time.monotonic()
                    self._take(line)
            except _ExpiredError:
                continue
            except (ApiError, *BROKEN) as error:
                if time.monotonic() - since > PATIENCE_SECONDS:
                    self._give_up(
                        RetryableError(
                            f"the API server is gone: {error}",
                            where=self._cluster.api.configuration.host,
                            hint="the job goes on without us: the same command adopts it",
                        )
                    )
                    return
                time.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
            except Exception as error:  # whoever waits must hear of it
                self._give_up(error)
                return

    def refresh(self) -> str:
        """Asks for the objects as they are now; returns the version that a watch goes on from."""
        found = self._cluster.list_with_version(self._kind, self._labels, self._fields)
        with self._changed:
            self._objects = {item["metadata"]["uid"]: item for item in found["items"]}
            self.listed = True
            self._changed.notify_all()
        return str(found["metadata"].get("resourceVersion", ""))

    def _events(self, version: str) -> Iterator[bytes]:
        """Lines of watches that follow one another without a new list, until one fails."""
        self._version = version
        while not self._stopped:
            query = {
                **selectors(self._labels, self._fields),
                "watch": "true",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(WATCH_SECONDS),
                "resourceVersion": self._version,
            }
            response = self._cluster.open("GET", self._cluster.path(self._kind), query, None, SILENCE_SECONDS)
            try:
                yield from lines_of(response.stream(65536))
            finally:
                response.close()

    def _take(self, line: bytes) -> None:
        event = json.loads(line)
        item = event["object"]
        if event["type"] == "ERROR":
            if item.get("code") == 410:
                raise _ExpiredError
            raise ApiError(int(item.get("code", 500)), str(item.get("message")))
        self._version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        with self._changed:
            if event["type"] == "DELETED":
                self._objects.pop(item["metadata"]["uid"], None)
            else:
                self._objects[item["metadata"]["uid"]] = item
            self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


class _ExpiredError(Exception):
    """The server has forgotten the version we know: list again."""


def lines_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines of a stream without their ends; what follows the last newline is dropped."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
