"""A forwarded port leads to the pod that runs now, whichever that is."""

import base64
import os
import socket
import threading
import time
from contextlib import suppress

import pytest
from click.testing import CliRunner

from components.common import cache
from components.common.errors import RetryableError
from components.launcher.connect import connect
from components.launcher.forward import forwarded, service_of
from pipelines.cli import main
from tests.support.s3_server import s3_server


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


@pytest.fixture
def store(server, monkeypatch, tmp_path):
    """A store that only the cluster's names lead to, and of which only the namespace knows."""
    for name in ("RLHF_STORE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RLHF_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    cache.cache_root.cache_clear()
    settings = {"RLHF_STORE": "s3://rlhf", "AWS_ENDPOINT_URL": "http://minio:9000"}
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": settings})
    keys = {"AWS_ACCESS_KEY_ID": "of-the-namespace", "AWS_SECRET_ACCESS_KEY": "secret-of-it"}
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    server.put("secrets", {"metadata": {"name": "rlhf-store"}, "data": encoded})
    with s3_server("rlhf") as there:
        Pod(server, "minio-a")
        server.ports["minio-a"] = there.port
        yield there
    cache.cache_root.cache_clear()


def test_put_and_get_open_their_own_way_to_a_store_that_only_the_cluster_knows(server, store, tmp_path):
    content = bytes(range(256)) * 4096  # a MiB
    (tmp_path / "sft.jsonl").write_bytes(content)
    put = CliRunner().invoke(main, ["put", "--on", "kubernetes", str(tmp_path / "sft.jsonl")])
    assert put.exit_code == 0, put.output
    uri = put.output.strip()
    assert uri.startswith("s3://rlhf/artifacts/upload/")
    assert content in store.objects.values()
    (tmp_path / "here").mkdir()
    got = CliRunner().invoke(main, ["get", "--on", "kubernetes", uri, str(tmp_path / "here")])
    assert got.exit_code == 0, got.output
    assert (tmp_path / "here" / "sft.jsonl").read_bytes() == content
    assert store.users == {"of-the-namespace"}
    assert all(host.startswith("127.0.0.1:") and host != f"127.0.0.1:{store.port}" for host in store.hosts)
    assert any("/pods/minio-a/portforward" in line for line in server.requests)
    assert not {"AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"} & set(os.environ), "they are for the command alone"


def test_an_endpoint_of_the_cluster_in_the_environment_is_forwarded_too(server, store, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.rlhf.svc:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "my-secret")
    store.objects["team/notes.txt"] = b"hello"
    got = CliRunner().invoke(main, ["get", "s3://rlhf/team", str(tmp_path / "here")])
    assert got.exit_code == 0, got.output
    assert (tmp_path / "here" / "notes.txt").read_bytes() == b"hello"
    assert store.users == {"mine"}
    assert os.environ["AWS_ENDPOINT_URL"] == "http://minio.rlhf.svc:9000"


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://minio.rlhf:9000", ("minio", "rlhf")),
        ("http://minio.rlhf.svc:9000", ("minio", "rlhf")),
        ("https://minio.rlhf.svc.cluster.local", ("minio", "rlhf")),
        ("http://minio-in-no-hosts-file:9000", ("minio-in-no-hosts-file", "mine")),
        ("http://localhost:9000", None),
        ("http://127.0.0.1:9000", None),
        ("https://s3.eu-west-1.amazonaws.com", None),
        ("", None),
    ],
)
def test_names_that_only_the_cluster_knows_are_told_from_others(url, service):
    assert service_of(url, "mine") == service
