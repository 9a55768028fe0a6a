"""A Kubernetes API server on loopback that holds objects in memory and does what a test tells it: fail, cut, forget."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

import yaml

from tests.support.api_handler import Handler


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Fault:
    """What the next so many matching requests get instead of an answer.

    Attributes:
        pattern: Of method, path and query, e.g. `POST .*/pytorchjobs`.
        status: HTTP status; 0 cuts the connection.
        message: What the server says.
        times: How many requests.
    """

    pattern: str
    status: int = 0
    message: str = "scripted"
    times: int = 1


@dataclass
class Container:
    """One container's log: lines with their times, whether it has ended, and after how many lines a reader is cut."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False
    cuts: list[int] = field(default_factory=list)


class _Quiet(ThreadingHTTPServer):
    """Says nothing of connections that were cut."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class ApiServer:
    """The server; `objects[kind][name]` is what it holds, `ports[pod]` the port of this machine that is the pod's.

    What it answers is in `api_handler.py`.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict]] = {}
        self.logs: dict[str, list[Container]] = {}
        self.ports: dict[str, int] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.changed = threading.Condition()
        self.down = False
        self._events: list[tuple[int, str, str, dict]] = []
        self._versions = itertools.count(1)
        self.version = 0
        self.oldest_version = 0
        self.streams: set[socket.socket] = set()
        handler = type("Handler", (Handler,), {"server_state": self})
        self._http = _Quiet(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self.cut_streams()
        self._http.shutdown()
        self._http.server_close()

    def kubeconfig(self, folder: Path, namespace: str = "rlhf") -> Path:
        """Writes a kubeconfig for this server."""
        path = folder / "kubeconfig"
        cluster = {"name": "fake", "cluster": {"server": self.url}}
        user = {"name": "me", "user": {"token": "secret"}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": namespace}}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "users": [user],
                    "contexts": [context],
                    "current-context": "fake",
                }
            )
        )
        return path

    def put(self, kind: str, item: dict) -> dict:
        """Makes or changes an object, as a controller would."""
        with self.changed:
            name = item["metadata"]["name"]
            known = self.objects.setdefault(kind, {})
            event = "MODIFIED" if name in known else "ADDED"
            item["metadata"].setdefault("uid", f"{kind}-{name}-{next(self._versions)}")
            item["metadata"].setdefault("creationTimestamp", now())
            self.version = next(self._versions)
            item["metadata"]["resourceVersion"] = str(self.version)
            known[name] = item
            self._tell(kind, event, item)
        return item

    def drop(self, kind: str, name: str) -> dict | None:
        """Deletes an object and what it owns."""
        with self.changed:
            item = self.objects.get(kind, {}).pop(name, None)
            if item is None:
                return None
            self.version = next(self._versions)
            item["metadata"]["resourceVersion"] = str(self.version)
            self._tell(kind, "DELETED", item)
            owned = [
                (other, found["metadata"]["name"])
                for other, items in self.objects.items()
                for found in items.values()
                if any(
                    owner["uid"] == item["metadata"]["uid"] for owner in found["metadata"].get("ownerReferences", [])
                )
            ]
        for other, owned_name in owned:
            self.drop(other, owned_name)
        return item

    def _tell(self, kind: str, event: str, item: dict) -> None:
        self._events.append((self.version, kind, event, json.loads(json.dumps(item))))
        self.changed.notify_all()

    def forget_events(self) -> None:
        """Watches from before now get 410."""
        with self.changed:
            self._events.clear()
            self.oldest_version = self.version
            self.changed.notify_all()

    def cut_streams(self) -> None:
        """Cuts every connection that streams now."""
        for stream in list(self.streams):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def go_down(self) -> None:
        """Answers nobody until `come_up`."""
        self.down = True
        self.cut_streams()

    def come_up(self) -> None:
        self.down = False

    def write_log(self, pod: str, *texts: str, container: int = -1) -> None:
        """Adds lines to a container's log, stamped now."""
        with self.changed:
            lines = self.logs.setdefault(pod, [Container()])[container].lines
            for text in texts:
                stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{len(lines) % 1000:03d}Z"
                lines.append((stamp, text))
            self.changed.notify_all()

    def wait_for(self, is_so, seconds: float = 60.0) -> None:
        with self.changed:
            assert self.changed.wait_for(is_so, seconds), "what the test waits for did not come"

    def events_since(self, kind: str, version: int) -> Iterator[tuple[int, str, dict]]:
        for number, of, event, item in list(self._events):
            if of == kind and number > version:
                yield number, event, item
