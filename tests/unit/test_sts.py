"""Temporary keys: none where the store has no such service, but never none because it is busy."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from components.common.errors import RetryableError
from components.common.sts import session_credentials


@pytest.fixture
def answer(monkeypatch):
    """Makes a store that answers every question with one status."""
    servers = []

    def make(status):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers[-1].server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)

    yield make
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_store_without_the_service_has_none(answer, status):
    answer(status)
    assert session_credentials("s3://bucket", ["a"], ["b"], 900) is None


def test_a_busy_store_is_asked_again_later(answer):
    answer(503)
    with pytest.raises(RetryableError, match="no temporary keys now"):
        session_credentials("s3://bucket", ["a"], ["b"], 900)
