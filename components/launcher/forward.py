"""Reaching a Service of the cluster from a laptop, through the API server, as `kubectl port-forward` does.

The kubernetes package's own port-forward keeps all that it cannot send yet in memory, which an upload of some
gigabytes shows; here what is not sent is not read.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlparse

from kubernetes.stream.ws_client import create_websocket, get_websocket_url
from websocket import ABNF, WebSocketException

from components.common.errors import RetryableError, RlhfError, UserError
from components.launcher.cluster import BROKEN, PODS, SERVICES, Cluster
from components.launcher.connect import connect, in_cluster

_CHUNK = 64 * 1024
# Channels of a forwarded port: what it says, and what goes wrong.
_DATA, _ERROR = 0, 1


@contextmanager
def store_endpoint(namespace: str = "", *, must_run: bool = True) -> Iterator[None]:
    """Makes `AWS_ENDPOINT_URL` one that this machine can reach while the block runs.

    Nothing is done where it is set to something that this machine finds by itself, or this is a pod of the cluster.

    Args:
        namespace: Of the cluster; by default the kubeconfig context's.
        must_run: Whether a Service without a pod is an error at once; else connections to it end at once.

    Raises:
        UserError: It names a Service that the cluster does not have.
        RetryableError: It must run and does not.
    """
    url = os.environ.get("AWS_ENDPOINT_URL", "")
    service = None if in_cluster() else service_of(url, namespace)
    if service is None:
        yield
        return
    cluster = connect(service[1])
    parsed = urlparse(url)
    with forwarded(cluster, service[0], parsed.port or 80, must_run=must_run) as port:
        os.environ["AWS_ENDPOINT_URL"] = f"{parsed.scheme}://127.0.0.1:{port}"
        try:
            yield
        finally:
            os.environ["AWS_ENDPOINT_URL"] = url


def service_of(url: str, namespace: str = "") -> tuple[str, str] | None:
    """Name and namespace of the Service that a URL names in the cluster's own way; None if it names none.

    `http://minio:9000`, `http://minio.rlhf:9000` and `http://minio.rlhf.svc.cluster.local:9000` do, unless this machine
    knows a host of that name.
    """
    host = urlparse(url).hostname or ""
    name, *rest = host.split(".")
    inside = rest[1:2] == ["svc"] or len(rest) <= 1
    if not host or not inside or host == "localhost" or name.isdigit():
        return None
    with suppress(OSError):
        socket.getaddrinfo(host, None)
        return None
    return name, rest[0] if rest else namespace


@contextmanager
def forwarded(cluster: Cluster, service: str, port: int, *, must_run: bool = True) -> Iterator[int]:
    """A port of this machine that leads to a port of a Service while the block runs; yields its number.

    Raises:
        UserError: There is no such Service, or it has no such port.
        RetryableError: It must run, and has no pod that does.
    """
    behind = _Behind(cluster, service, port)
    if must_run:
        behind.pod()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, behind), daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


class _Behind:
    """The pod behind a Service: looked up once, and anew when it does not answer, since pods come and go.

    Args:
        cluster: Where the Service is.
        service: Its name.
        port: Its port.
    """

    def __init__(self, cluster: Cluster, service: str, port: int) -> None:
        self.cluster, self._service, self._port = cluster, service, port
        self._lock = threading.Lock()
        self._known: tuple[str, int] | None = None

    def pod(self) -> tuple[str, int]:
        """Name of a pod that runs, and the port of its container."""
        with self._lock:
            if self._known is None:
                self._known = _pod_of(self.cluster, self._service, self._port)
            return self._known

    def is_gone(self, pod: tuple[str, int]) -> None:
        """Says that a pod did not answer: the next one who asks gets one that runs now."""
        with self._lock:
            if self._known == pod:
                self._known = None


def _pod_of(cluster: Cluster, service: str, port: int) -> tuple[str, int]:
    """A running pod behind a Service, and the port of its container."""
    where = f"Service {service} (namespace {cluster.namespace})"
    found = cluster.get(SERVICES, service)
    if found is None:
        raise UserError("there is none", where=where, hint="check AWS_ENDPOINT_URL and the kubeconfig's context")
    ports = found["spec"]["ports"]
    wanted = next((item for item in ports if item["port"] == port), None)
    if wanted is None:
        raise UserError(
            f"has no port {port}", where=where, hint=f"it has {', '.join(str(item['port']) for item in ports)}"
        )
    pods = cluster.list(PODS, found["spec"].get("selector", {}), "status.phase=Running")
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if not staying:
        raise RetryableError("has no pod that runs", where=where, hint="see why")
    chosen = max(staying, key=_is_ready)
    return chosen["metadata"]["name"], _target(chosen, wanted)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


def _target(pod: dict[str, Any], port: dict[str, Any]) -> int:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    named = [item for container in pod["spec"]["containers"] for item in container.get("ports", [])]
    return next((int(item["containerPort"]) for item in named if item.get("name") == target), int(port["port"]))


def _accept(listener: socket.socket, behind: _Behind) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        threading.Thread(target=_serve, args=(connection, behind), daemon=True).start()


def _serve(connection: socket.socket, behind: _Behind) -> None:
    """Carries one connection both ways until either side ends it."""
    with connection:
        found = _tunnel(behind)
        if found is None:
            return  # whoever connected sees the connection end, and tries again
        tunnel, pod = found
        sender = threading.Thread(target=_send, args=(connection, tunnel), daemon=True)
        sender.start()
        with suppress(WebSocketException, *BROKEN):
            if not _receive(connection, tunnel):
                behind.is_gone(pod)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        _end(tunnel)


def _tunnel(behind: _Behind) -> tuple[Any, tuple[str, int]] | None:
    """A connection to a pod and which pod it is; to another pod where the known one is gone."""
    for _ in range(2):
        try:
            pod = behind.pod()
        except (RlhfError, *BROKEN):
            return None
        try:
            return _open(behind.cluster, *pod), pod
        except (WebSocketException, *BROKEN):
            behind.is_gone(pod)
    return None


def _open(cluster: Cluster, pod: str, port: int) -> Any:
    settings = cluster.api.configuration
    headers: dict[str, str] = {}
    cluster.api.update_params_for_auth(headers, [], ["BearerToken"])
    url = get_websocket_url(f"{settings.host}{cluster.path(PODS, pod)}/portforward", [("ports", str(port))])
    return create_websocket(settings, url, headers)


def _send(connection: socket.socket, tunnel: Any) -> None:
    with suppress(WebSocketException, *BROKEN):
        while data := connection.recv(_CHUNK):
            tunnel.send(bytes([_DATA]) + data, ABNF.OPCODE_BINARY)
    _end(tunnel)


def _end(tunnel: Any) -> None:
    """Ends a tunnel under the thread that reads from it; closing it properly would need that thread."""
    with suppress(OSError, AttributeError):
        tunnel.sock.shutdown(socket.SHUT_RDWR)


def _receive(connection: socket.socket, tunnel: Any) -> bool:
    """Carries what a pod says; returns False if the pod could not be reached."""
    greeted: set[int] = set()
    while True:
        opcode, frame = tunnel.recv_data()
        if opcode == ABNF.OPCODE_CLOSE:
            return True
        channel, data = frame[0], frame[1:]
        if channel not in greeted:  # each channel begins with the number of its port
            greeted.add(channel)
        elif channel == _ERROR:
            return False
        else:
            connection.sendall(data)
