"""What was fetched once is kept while there is room, and given to one process at a time to complete."""

import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from components.common import cache, heartbeat
from components.common.errors import UserError
from tests.support.commands import ROOT


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_held", {})
    cache.cache_root.cache_clear()
    yield tmp_path / "cache"
    cache.cache_root.cache_clear()


def bring(calls, content=b"x"):
    def fill(files, parts):
        parts.mkdir(parents=True, exist_ok=True)
        if not (files / "a").exists():
            calls.append(1)
            (files / "a").write_bytes(content)

    return fill


def test_a_folder_is_brought_once(root):
    calls = []
    for _ in range(2):
        assert (cache.fetched("one", 1, bring(calls)) / "a").read_bytes() == b"x"
    assert calls == [1]
    assert not (root / "fetched" / "one" / "parts").exists()


def test_what_changed_since_is_brought_again(root):
    calls = []
    folder = cache.fetched("one", 1, bring(calls))
    (folder / "a").write_bytes(b"yy")
    assert (cache.fetched("one", 1, bring(calls)) / "a").read_bytes() == b"x"
    assert calls == [1, 1]


def test_processes_wait_for_the_one_that_brings(root, tmp_path):
    code = f"""
import time
from pathlib import Path
from components.common import cache, heartbeat
def bring(files, parts):
    if not (files / "a").exists():
        with open({str(tmp_path / "calls")!r}, "a") as file: file.write("x")
        time.sleep(0.5)
        (files / "a").write_text("x")
assert (cache.fetched("one", 1, bring) / "a").read_text() == "x"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_who_waits_for_the_one_that_brings_gives_signs_of_life(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(heartbeat, "beat", lambda: given.append(1))
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, [other, fcntl.LOCK_UN]).start()
        with cache.locked(tmp_path / "lock"):
            assert given


@pytest.fixture
def small_disk(monkeypatch):
    """A disk with 150 free kilobytes beside what the cache takes."""

    def usage(path):
        return type("Usage", (), {"free": 150_000})

    monkeypatch.setattr(cache.shutil, "disk_usage", usage)


def leave(name, size):
    """A folder of 40 kB that no process uses any more."""
    folder = cache.fetched(name, size, bring([], bytes(size)))
    os.close(cache._held.pop(folder.parent))
    time.sleep(0.01)
    return folder


def test_the_least_recently_used_make_room(root, small_disk):
    old, recent = leave("old", 40_960), leave("recent", 40_960)
    leave("old", 40_960)
    leave("new", 40_960)
    assert old.exists()
    assert not recent.exists()


def test_what_is_in_use_stays(root, small_disk):
    used = cache.fetched("used", 40_960, bring([], bytes(40_960)))
    other = leave("other", 40_960)
    leave("new", 40_960)
    assert used.exists()
    assert not other.exists()


def test_no_room_is_told_before_anything_is_fetched(root, small_disk):
    calls = []
    with pytest.raises(UserError, match=r"0.0 GiB are free; free space, or set RLHF_CACHE"):
        cache.fetched("big", 10**6, bring(calls))
    assert not calls


def test_a_folder_of_ours_moves_in(root, tmp_path):
    folder = root / "made"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"x")
    cache.adopt("mine", folder)
    assert not folder.exists()
    calls = []
    assert (cache.fetched("mine", 1, bring(calls)) / "a").read_bytes() == b"x"
    assert not calls


def test_a_folder_that_cannot_be_written_to_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "file" / "below"))
    cache.cache_root.cache_clear()
    with pytest.raises(UserError, match="set RLHF_CACHE"):
        cache.cache_root()
    cache.cache_root.cache_clear()


def test_a_home_that_is_read_only_is_no_hindrance(monkeypatch, tmp_path):
    (tmp_path / "home").write_text("")
    monkeypatch.delenv("RLHF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    cache.cache_root.cache_clear()
    assert cache.cache_root() == tmp_path / f"rlhf-stack-{os.getuid()}"
    cache.cache_root.cache_clear()
