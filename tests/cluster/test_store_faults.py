"""What a store does to us: it goes away in the middle, comes back, is full. Real faults of a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from components.common.errors import InputError, RetryableError, UserError
from components.common.manifest import list_files
from components.common.s3 import S3Store
from components.common.s3_bucket import Bucket
from components.common.s3_upload import PART
from tests.support.minio import new_root, running
from tests.support.stored import PREFIX, fill, forget, make

pytest_plugins = ("tests.support.store_fixtures",)

DOWN_SECONDS = float(os.environ.get("RLHF_STORE_DOWN_SECONDS", "5"))


@pytest.fixture
def own_store(own_minio, own_cache, reach):
    reach(own_minio)
    return S3Store(new_root())


class Counted:
    """Counts a method's calls, and does something at one of them."""

    def __init__(self, monkeypatch, name, at=0, then=lambda: None):
        self.calls, self._at, self._then = 0, at, then
        self._lock = threading.Lock()
        method = getattr(Bucket, name)

        def counted(*args, **kwargs):
            with self._lock:
                self.calls += 1
                due = self.calls == self._at
            if due:
                self._then()
            return method(*args, **kwargs)

        monkeypatch.setattr(Bucket, name, counted)


def outage(server, seconds=DOWN_SECONDS):
    """Kills a server and starts it again later."""

    def away():
        server.stop()
        time.sleep(seconds)
        server.start()

    return threading.Thread(target=away)


def test_an_outage_in_an_upload(own_store, own_cache, own_minio, monkeypatch, capfd):
    away = outage(own_minio)
    parts = Counted(monkeypatch, "put_part", at=6, then=away.start)
    manifest = make(own_store, {"big.bin": os.urandom(12 * PART), **{f"{i}": b"x" for i in range(50)}})
    away.join()
    assert parts.calls == 12
    forget(own_cache)
    assert list_files(own_store.fetch(PREFIX)) == manifest.files
    said = capfd.readouterr().out
    assert f"store {own_minio.url}" in said
    assert said.endswith("store answers again\n")


def test_an_outage_in_a_download(own_store, own_cache, own_minio, monkeypatch):
    manifest = make(own_store, {"big.bin": os.urandom(12 * PART), **{f"{i}": b"x" for i in range(50)}})
    forget(own_cache)
    away = outage(own_minio)
    ranges = Counted(monkeypatch, "read_range", at=3, then=away.start)
    folder = own_store.fetch(PREFIX)
    away.join()
    assert ranges.calls == 6
    assert list_files(folder) == manifest.files


def test_a_killed_upload_goes_on(own_store, own_cache, own_minio, monkeypatch):
    folder, manifest = fill(own_store, {"big.bin": os.urandom(12 * PART), **{f"{i}": b"x" for i in range(50)}})
    (folder / "manifest.json").write_bytes(manifest.canonical())

    class StoppedError(BaseException):
        pass

    def stop():
        raise StoppedError

    Counted(monkeypatch, "put_part", at=9, then=stop)
    with pytest.raises(StoppedError):
        own_store.publish(folder, PREFIX)
    assert not own_store.exists(f"{PREFIX}/manifest.json")
    monkeypatch.undo()
    for name, value in own_minio.environment().items():
        monkeypatch.setenv(name, value)
    parts, whole = Counted(monkeypatch, "put_part"), Counted(monkeypatch, "put")
    assert own_store.publish(folder, PREFIX)
    assert 1 <= parts.calls <= 4
    assert whole.calls == 1  # the manifest: the small files were there


def test_a_killed_download_goes_on(own_store, own_cache, tmp_path):
    manifest = make(own_store, {"big.bin": os.urandom(40 * PART), **{f"{i}": b"x" for i in range(50)}})
    forget(own_cache)
    code = f"from components.common.store import fetch_uri; fetch_uri('{own_store.root}/{PREFIX}')"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    (parts,) = wait_for(lambda: list(own_cache.glob("fetched/*/parts/*.ranges")))
    wait_for(lambda: len(parts.read_text().split()) >= 5)
    process.kill()
    process.wait()
    have = len(set(parts.read_text().split()))
    with pytest.MonkeyPatch.context() as patch:
        ranges = Counted(patch, "read_range")
        folder = own_store.fetch(PREFIX)
    assert ranges.calls <= 20 - have
    assert list_files(folder) == manifest.files


def wait_for(look):
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return found


def test_ranges_that_were_lost_on_the_disk_are_fetched_again(own_store, own_cache):
    make(own_store, {"big.bin": os.urandom(5 * PART)})
    forget(own_cache)
    digest = own_store.fetch(PREFIX).parent.name
    forget(own_cache)
    parts = own_cache / "fetched" / digest / "parts"
    parts.mkdir(parents=True)
    (parts / "big.bin").write_bytes(bytes(5 * PART))
    (parts / "big.bin.ranges").write_text("0\n1\n")
    folder = own_store.fetch(PREFIX)
    assert (folder / "big.bin").stat().st_size == 5 * PART
    assert (folder / "big.bin").read_bytes()[:1000] != bytes(1000)


def test_a_store_that_stays_away_is_given_up(own_store, own_minio, monkeypatch):
    own_store.write("x", b"1")
    own_minio.stop()
    impatient = own_store.bucket.stoppable(1.5)
    began = time.monotonic()
    with pytest.raises(RetryableError, match=r"refuses the connection; see that it is up.*same command again"):
        impatient.get("x")
    assert 1 < time.monotonic() - began < 10
    own_minio.start()


def test_a_store_that_hangs_is_given_up_or_waited_for(own_store, own_minio, monkeypatch):
    own_store.write("x", b"1")
    own_minio.send(signal.SIGSTOP)
    threading.Timer(3, own_minio.send, [signal.SIGCONT]).start()
    assert own_store.read("x") == b"1"


def test_a_full_store_is_told(tmp_path, own_cache, reach):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", disk], check=True)
    try:
        for server in running(disk):
            reach(server)
            store = S3Store(new_root())
            with pytest.raises(UserError, match="the store is full; free space in it"):
                make(store, {"big.bin": os.urandom(200 << 20)})
            assert not store.exists(f"{PREFIX}/manifest.json")
            with pytest.raises(InputError, match="not a complete artifact"):
                store.fetch(PREFIX)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
