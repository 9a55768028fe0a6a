"""Just enough of the Kubeflow Pipelines API, on loopback, to submit runs to and watch them end.

The same server is a cluster's API, which hands requests on to the Service ml-pipeline: `kubeconfig` leads there.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse


@dataclass
class Server:
    """What the server was sent and what it answers.

    Attributes:
        states: States of a run, one for each time it is asked for; the last one stays. A number is the status of a
            failure, 0 cuts the connection.
        refuse: Status with which a new run is answered, 0 to accept it.
        runs: The bodies of the runs that were created.
        paths: Where they were sent.
        tokens: The bearer tokens with which it was asked to start a run.
        homes: Namespaces that have the Service ml-pipeline, and what their ConfigMap rlhf-stack says.
    """

    url: str = ""
    states: list[str | int | None] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    refuse: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    homes: dict[str, dict[str, str]] = field(default_factory=lambda: {"models": {}})
    asked: int = 0

    def kubeconfig(self, folder: Path, namespace: str = "") -> str:
        """Writes a kubeconfig whose context names this server and perhaps a namespace; returns its path."""
        context = {"cluster": "stub", "user": "stub", **({"namespace": namespace} if namespace else {})}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stub",
            "contexts": [{"name": "stub", "context": context}],
            "clusters": [{"name": "stub", "cluster": {"server": self.url}}],
            "users": [{"name": "stub", "user": {}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(content))
        return str(path)

    def next_state(self) -> str | int | None:
        """The run's state at this request."""
        state = self.states[min(self.asked, len(self.states) - 1)]
        self.asked += 1
        return state


@contextmanager
def kfp_server() -> Iterator[Server]:
    """A server for the time of a test."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            return

        def answer(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def answer_run(self, state: str | int | None) -> None:
            if state == 0:
                self.connection.shutdown(socket.SHUT_RDWR)
            elif isinstance(state, int):
                self.answer(state, {"error": "away"})
            else:
                self.answer(200, {"run_id": "r1", "state": state})

        def do_GET(self) -> None:
            path = urlparse(self.path).path
            config_map = re.fullmatch(r"/api/v1/namespaces/([^/]+)/configmaps/rlhf-stack", path)
            if path == "/api/v1/services":
                self.answer(200, {"items": [{"metadata": {"namespace": name}} for name in server.homes]})
            elif config_map and config_map[1] in server.homes:
                self.answer(200, {"data": server.homes[config_map[1]]})
            elif path.endswith("/healthz"):
                self.answer(200, {"multi_user": False})
            elif path.endswith("/runs/r1"):
                self.answer_run(server.next_state())
            elif path.endswith("/experiments"):
                self.answer(200, {"experiments": [{"experiment_id": "e1", "display_name": "rlhf"}]})
            else:
                self.answer(404, {"error": f"no {path}"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = urlparse(self.path).path
            if path.endswith("/runs") and server.refuse:
                self.answer(server.refuse, {"error": "the quota is used up"})
            elif path.endswith("/runs"):
                server.runs.append(body)
                server.paths.append(path)
                server.tokens.append(self.headers.get("Authorization", ""))
                self.answer(200, {"run_id": "r1", "display_name": body.get("display_name"), "state": "PENDING"})
            else:
                self.answer(200, {"experiment_id": "e1", "display_name": "rlhf"})

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
