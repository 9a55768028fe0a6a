"""Temporary keys: none where the store has no such service, but never none because it is busy."""

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from components.common.errors import RetryableError
from components.common.sts import session_credentials


@pytest.fixture
def answer(monkeypatch):
    """Makes a store that answers every question with one status and text."""
    servers = []

    def make(status, text=""):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

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


def test_keys_say_when_they_end(answer):
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=900)
    answer(
        200,
        '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
        "<AccessKeyId>a</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
        f"<Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
    )
    given = session_credentials("s3://bucket", ["a"], ["b"], 900)
    assert (given.access_key, given.secret_key, given.session_token) == ("a", "s", "t")
    assert given.expires == ends
