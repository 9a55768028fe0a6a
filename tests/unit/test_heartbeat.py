"""Signs of life come from work, and from the main thread."""

import json
import threading
import time

import pytest

from components.common import heartbeat, mirror
from components.common.logs import LOG, Progress, keep_log, note, say
from components.common.remote_checkpoints import RemoteCheckpoints
from components.common.s3_access import Access
from components.common.s3_bucket import Bucket


@pytest.fixture
def beats(tmp_path, monkeypatch):
    """Reads the last sign of life, with no pause between two."""
    monkeypatch.setattr(heartbeat, "EVERY", 0.0)
    heartbeat.start(tmp_path)
    yield lambda: json.loads((tmp_path / heartbeat.FILE).read_text())
    heartbeat.stop()


def test_lines_and_steps_are_signs_of_life(beats):
    first = beats()
    assert abs(first["time"] - time.time()) < 5
    assert first["step"] == 0
    progress = Progress("sft", 100, every=50)
    for step in (1, 2, 3):
        progress.step(step, {"loss": 1.0})
    time.sleep(0.005)
    say("sft", "something")
    assert beats()["step"] == 3
    assert beats()["time"] > first["time"]


def test_other_threads_and_other_work_give_none(beats):
    before = beats()
    time.sleep(0.005)
    thread = threading.Thread(target=heartbeat.beat, args=[7])
    thread.start()
    thread.join()
    assert beats() == before
    heartbeat.stop()
    heartbeat.beat(8)
    assert beats() == before


def test_they_are_written_now_and_then_only(tmp_path):
    heartbeat.start(tmp_path)
    written = (tmp_path / heartbeat.FILE).stat().st_mtime_ns
    for step in range(1000):
        heartbeat.beat(step)
    assert (tmp_path / heartbeat.FILE).stat().st_mtime_ns == written
    heartbeat.stop()


def test_they_are_in_the_store_while_a_checkpoint_is_brought_from_it(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(mirror, "EVERY", 0.02)
    monkeypatch.setattr(mirror, "upload", lambda bucket, files, what: sent.append(what))

    def restore(_checkpoints):
        end = time.monotonic() + 20
        while heartbeat.FILE not in sent:
            assert time.monotonic() < end, "whoever looks for a hang sees nothing"
            time.sleep(0.02)

    monkeypatch.setattr(RemoteCheckpoints, "restore", restore)
    bucket = Bucket("b", Access("http://127.0.0.1:1", "us-east-1", "key", "secret"))
    with mirror.work_folder(bucket, "work/sft/k/r", tmp_path / "r", writes=True):
        sent.clear()
    assert not (tmp_path / "r").exists()


def test_the_log_has_what_is_said_and_what_is_noted(tmp_path, capsys):
    keep_log(tmp_path / LOG)
    say("sft", "one")
    note("sft", "two")
    keep_log(None)
    say("sft", "three")
    assert [line.split(" ", 1)[1] for line in (tmp_path / LOG).read_text().splitlines()] == ["sft one", "sft two"]
    assert capsys.readouterr().out == "sft one\nsft three\n"
