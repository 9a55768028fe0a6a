"""A forwarded port leads to the pod that runs now, whichever that is."""

import socket
import threading
import time
from contextlib import suppress

import pytest

from components.common.errors import RetryableError
from components.launcher.cluster import connect
from components.launcher.forward import forwarded


class Pod:
    """A pod on a port of this machine that answers every connection with its name and what it was sent."""

    def __init__(self, server, name, ready=True, **metadata):
        self.server, self.name = server, name
        self.listener = socket.create_server(("127.0.0.1", 0))
        server.ports[name] = self.listener.getsockname()[1]
        conditions = [{"type": "Ready", "status": str(ready)}]
        server.put(
            "pods",
            {
                "metadata": {"name": name, "labels": {"app": "minio"}, **metadata},
                "spec": {"containers": [{"ports": [{"name": "s3", "containerPort": 9000}]}]},
                "status": {"phase": "Running", "conditions": conditions},
            },
        )
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(f"{self.name} ".encode() + connection.recv(100))

    def end(self):
        self.server.drop("pods", self.name)
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def server(server):
    spec = {"selector": {"app": "minio"}, "ports": [{"port": 9000, "targetPort": "s3"}]}
    server.put("services", {"metadata": {"name": "minio"}, "spec": spec})
    return server


def ask(port):
    """What a connection is answered; nothing where it just ends."""
    answer = b""
    with suppress(ConnectionResetError), socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"hello")
        while data := connection.recv(100):
            answer += data
    return answer.decode()


def answered(port, wanted):
    """Asks as a client does that tries again."""
    end = time.monotonic() + 20
    while (answer := ask(port)) != wanted:
        assert time.monotonic() < end, answer


def test_a_pod_that_takes_anothers_place_is_found(server):
    first = Pod(server, "minio-a")
    with forwarded(connect(), "minio", 9000) as port:
        assert ask(port) == "minio-a hello"
        first.end()
        Pod(server, "minio-b")
        assert ask(port) == "minio-b hello"


def test_a_pod_that_is_there_but_does_not_answer_is_given_up_for_one_that_does(server):
    first = Pod(server, "minio-a")
    with forwarded(connect(), "minio", 9000) as port:
        assert ask(port) == "minio-a hello"
        Pod(server, "minio-b")
        first.end()
        Pod(server, "minio-a", ready=False).listener.close()  # its node is lost: nothing says so but its condition
        answered(port, "minio-b hello")


def test_a_pod_that_is_leaving_is_not_chosen(server):
    Pod(server, "minio-a", deletionTimestamp="2026-01-01T00:00:00Z")
    with pytest.raises(RetryableError, match="no pod that runs"), forwarded(connect(), "minio", 9000):
        pytest.fail("it is forwarded")
    Pod(server, "minio-b")
    with forwarded(connect(), "minio", 9000) as port:
        assert ask(port) == "minio-b hello"


def test_a_store_that_is_away_for_a_while_is_reached_again(server):
    first = Pod(server, "minio-a")
    with forwarded(connect(), "minio", 9000) as port:
        first.end()
        assert ask(port) == ""
        Pod(server, "minio-b")
        assert ask(port) == "minio-b hello"
