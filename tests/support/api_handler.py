"""What the fake API server answers to each request."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

from tests.support.port_forward import forward

if TYPE_CHECKING:
    from tests.support.api_server import ApiServer

PATH = re.compile(
    r"/(?:api|apis/[^/]+)/v1(?:alpha1)?/namespaces/(?P<ns>[^/]+)/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?(?P<below>/log|/portforward)?"
)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests out of what the server holds."""

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
            self.server_state.streams.add(self.connection)
            forward(self, self.server_state.ports[pod])

    def _begin_stream(self) -> None:
        self.server_state.streams.add(self.connection)
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
