"""A MinIO server on this machine, for tests that need a real one."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KEY, SECRET = "rlhf-test-root", "rlhf-test-secret"


def find_minio() -> Path | None:
    """The server's binary: `RLHF_MINIO`, what the test cluster has built, or the one on PATH; None if there is none."""
    if named := os.environ.get("RLHF_MINIO"):
        return Path(named)
    cache = Path(os.environ.get("RLHF_CLUSTER_CACHE", Path.home() / ".cache" / "rlhf-cluster"))
    built = sorted(cache.glob("bin/minio-*/minio"), key=lambda path: path.stat().st_mtime)
    on_path = shutil.which("minio")
    return built[-1] if built else Path(on_path) if on_path else None


@dataclass
class MinioServer:
    """A server with its data in a folder. It can be killed and started again, on the same port.

    Attributes:
        binary: What to run.
        data: Where the objects are.
        certificates: Folder with public.crt and private.key, for TLS.
    """

    binary: Path
    data: Path
    certificates: Path | None = None
    port: int = field(default_factory=lambda: _free_port())
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self.certificates else 'http'}://127.0.0.1:{self.port}"

    def environment(self, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
        """What a process needs to reach it."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [str(self.binary), "server", "--quiet", "--address", f"127.0.0.1:{self.port}", str(self.data)]
        if self.certificates:
            command[2:2] = ["--certs-dir", str(self.certificates)]
        self.data.mkdir(parents=True, exist_ok=True)
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MINIO_")},
            "MINIO_ROOT_USER": KEY,
            "MINIO_ROOT_PASSWORD": SECRET,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CI_CD": "on",  # the data may lie on the disk of the system
        }
        log = self.data.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
        log.close()
        deadline = time.monotonic() + 60
        while not self._ready():
            assert self._process.poll() is None, self.data.with_suffix(".log").read_text()
            assert time.monotonic() < deadline, "MinIO does not answer"
            time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it as a crash would, unless another signal is given."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def _ready(self) -> bool:
        if self.certificates:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0
        try:
            with urllib.request.urlopen(f"{self.url}/minio/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def running(folder: Path, **fields: Path) -> Iterator[MinioServer]:
    """Runs a server with its data below a folder."""
    binary = find_minio()
    assert binary, "no MinIO: set RLHF_MINIO, or let tests/cluster build it (tests/cluster/images minio)"
    server = MinioServer(binary, folder / "data", **fields)
    server.start()
    yield server
    server.stop()


def new_root() -> str:
    """Makes a bucket; returns the URI of a store in it."""
    from components.common.s3 import S3Store

    root = f"s3://b{secrets.token_hex(6)}/some/prefix"
    assert S3Store(root).bucket.create()
    return root


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
