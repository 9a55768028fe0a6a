"""Just enough of S3 on loopback for small files to be put, listed and fetched. Signatures are not looked at."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse
from xml.sax.saxutils import escape


@dataclass
class S3Server:
    """What is in its one bucket.

    Attributes:
        bucket: Its name.
        port: Of this machine.
        objects: Content by key.
        hosts: The names by which it was asked.
        users: The access keys with which it was asked.
    """

    bucket: str
    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)


@contextmanager
def s3_server(bucket: str) -> Iterator[S3Server]:
    """A server for the time of a test."""
    state = S3Server(bucket)
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    state.port = http.server_address[1]
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: S3Server

    def log_message(self, *_args: object) -> None:
        pass

    def _key(self) -> str:
        """Notes who asks and how; returns the key of the object that is asked for."""
        self.state.hosts.add(self.headers["Host"])
        self.state.users.add(re.search("Credential=([^/]+)/", self.headers["Authorization"])[1])
        bucket, _, key = unquote(urlparse(self.path).path).lstrip("/").partition("/")
        assert bucket == self.state.bucket, bucket
        return key

    def do_GET(self) -> None:
        key, query = self._key(), parse_qs(urlparse(self.path).query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0])
        elif key not in self.state.objects:
            self._error(404, "NoSuchKey")
        else:
            self._content(self.state.objects[key])

    def _content(self, content: bytes) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = content[int(found[1]) : int(found[2]) + 1] if found else content
        headers = {"ETag": _tag(content)}
        if found:
            headers["Content-Range"] = f"bytes {found[1]}-{int(found[1]) + len(part) - 1}/{len(content)}"
        self._answer(206 if found else 200, part, headers)

    def do_PUT(self) -> None:
        key, content = self._key(), self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match") and key in self.state.objects:
            self._error(412, "PreconditionFailed")
            return
        self.state.objects[key] = content
        self._answer(200, b"", {"ETag": _tag(content)})

    def _list(self, prefix: str) -> None:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>{escape(_tag(content))}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, content in sorted(self.state.objects.items())
            if key.startswith(prefix)
        )
        name = f"<Name>{self.state.bucket}</Name><IsTruncated>false</IsTruncated>"
        text = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{name}{found}</ListBucketResult>'
        self._answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        self._answer(status, text.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
