"""A Kubernetes API server on loopback that holds objects in memory and does what a test tells it: fail, cut, forget."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import yaml

from tests.support.port_forward import forward

PATH = re.compile(
    r"/(?:api|apis/[^/]+)/v1(?:alpha1)?/namespaces/(?P<ns>[^/]+)/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?(?P<below>/log|/portforward)?"
)


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
    """The server; `objects[kind][name]` is what it holds, `ports[pod]` the port of this machine that is the pod's."""

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
        self._streams: set[socket.socket] = set()
        handler = type("Handler", (_Handler,), {"server_state": self})
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
        for stream in list(self._streams):
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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: ApiServer

    def log_message(self, *_args) -> None:
        pass

    def _answer(self) -> None:
        state = self.server_state
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        request = f"{self.command} {self.path}"
        if state.down:
            self._cut()
            return
        with state.changed:
            state.requests.append(request)
            state.changed.notify_all()
        for fault in state.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                if fault.status:
                    self._error(fault.status, fault.message)
                else:
                    self._cut()
                return
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = PATH.fullmatch(url.path)
        if url.path == "/version":
            self._json(200, {"gitVersion": "v1.34.0"})
        elif found is None:
            self._error(404, "the server could not find the requested resource")
        elif found["below"] == "/log":
            self._log(found["name"], query)
        elif found["below"]:
            self._forward(found["name"])
        elif query.get("watch"):
            self._watch(found["kind"], query)
        else:
            self._object(found["kind"], found["name"], query, body)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _object(self, kind: str, name: str | None, query: dict, body: dict | None) -> None:
        state = self.server_state
        known = state.objects.setdefault(kind, {})
        if self.command == "POST":
            if body["metadata"]["name"] in known:
                self._error(409, f'{kind} "{body["metadata"]["name"]}" already exists')
            else:
                self._json(201, state.put(kind, body))
        elif name is None:
            items = [item for item in known.values() if _selected(item, query)]
            self._json(200, {"items": items, "metadata": {"resourceVersion": str(state.version)}})
        elif name not in known:
            self._error(404, f'{kind} "{name}" not found')
        elif self.command == "GET":
            self._json(200, known[name])
        elif self.command == "PATCH":
            merged = json.loads(json.dumps(known[name]))
            _merge(merged, body)
            self._json(200, state.put(kind, merged))
        else:
            state.drop(kind, name)
            self._json(200, {"kind": "Status", "status": "Success"})

    def _watch(self, kind: str, query: dict) -> None:
        state, version = self.server_state, int(query.get("resourceVersion") or 0)
        if version < state.oldest_version:
            self._begin_stream()
            self._chunk(json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}).encode() + b"\n")
            self._chunk(b"")
            return
        self._begin_stream()
        end = time.monotonic() + float(query.get("timeoutSeconds", 60))
        while time.monotonic() < end and not state.down:
            for number, event, item in state.events_since(kind, version):
                version = number
                if _selected(item, query):
                    self._chunk(json.dumps({"type": event, "object": item}).encode() + b"\n")
            with state.changed:
                state.changed.wait(0.2)
        self._chunk(b"")

    def _log(self, pod: str, query: dict) -> None:
        state = self.server_state
        containers = state.logs.get(pod, [])
        index = -2 if query.get("previous") else -1
        if len(containers) < -index:
            self._error(400, f'container "pytorch" in pod "{pod}" is waiting to start: ContainerCreating')
            return
        container = containers[index]
        limit = container.cuts.pop(0) if container.cuts else None
        self._begin_stream()
        sent, position = 0, 0
        while True:
            while position < len(container.lines):
                stamp, text = container.lines[position]
                if stamp[:19] >= query.get("sinceTime", "")[:19]:
                    if limit is not None and sent >= limit:
                        self._chunk(f"{stamp} {text}"[:-2].encode())  # in mid-line, as cuts are
                        self._cut()
                        return
                    self._chunk(f"{stamp} {text}\n".encode())
                    sent += 1
                position += 1
            if not query.get("follow") or container.ended:
                break
            with state.changed:
                state.changed.wait(0.2)
        self._chunk(b"")

    def _forward(self, pod: str) -> None:
        if pod not in self.server_state.objects.get("pods", {}):
            self._error(404, f'pods "{pod}" not found')
        else:
            self.server_state._streams.add(self.connection)
            forward(self, self.server_state.ports[pod])

    def _begin_stream(self) -> None:
        self.server_state._streams.add(self.connection)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def _json(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"kind": "Status", "code": status, "message": message})

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _selected(item: dict, query: dict) -> bool:
    labels = item["metadata"].get("labels", {})
    wanted = [pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair]
    named = re.fullmatch(r"(metadata|involvedObject)\.name=(.+)", query.get("fieldSelector", ""))
    return all(labels.get(name) == value for name, value in wanted) and (
        named is None or item.get(named[1], {}).get("name") == named[2]
    )


def _merge(base: dict, change: dict) -> None:
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value
