"""What a stage writes while it trains is in the bucket while it trains, and training goes on from there anywhere."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, suppress

import pytest

from components.common import cache, heartbeat
from components.common.checkpoints import Checkpoints
from components.common.errors import RetryableError
from components.common.s3 import S3Store
from tests.support.minio import new_root

pytest_plugins = ("tests.support.store_fixtures",)

RUN = "work/sft/k/run"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this process one on another machine, with a disk of its own."""

    def become(name):
        monkeypatch.setenv("RLHF_CACHE", str(tmp_path / name))
        cache.cache_root.cache_clear()

    yield become
    cache.cache_root.cache_clear()


@contextmanager
def stopped_work(store):
    """A run's work folder, whose stage is told to stop at the end of the block."""
    with suppress(RetryableError), store.work(RUN, writes=True) as work:
        yield work
        raise RetryableError("was told to stop")


def save(work, step, size=100):
    with Checkpoints(work, "sft").writing(step) as folder:
        (folder / "state.bin").write_bytes(bytes([step]) * size)
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text(str(step))


def steps(store, key="work/sft/k"):
    paths = [path for path in store.files(key) if path.endswith("/manifest.json")]
    return sorted(path.split("/")[-2] for path in paths)


def until(look):
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_checkpoints_are_found_on_another_machine(store, machine):
    machine("one")
    with stopped_work(store) as work:
        for step in (10, 20, 30):
            save(work, step)
            until(lambda step=step: f"step-{step:08d}" in steps(store))
        until(lambda: steps(store) == ["step-00000020", "step-00000030"])
        save(work, 40)
    assert steps(store) == ["step-00000030", "step-00000040"]
    machine("two")
    with store.work("work/sft/k/another-run", writes=True) as work:
        found = Checkpoints(work, "sft").newest()
        assert (found.step, found.folder.parent.parent) == (40, work)
        assert (found.folder / "state.bin").read_bytes() == bytes([40]) * 100
        save(work, 50)
        until(lambda: steps(store) == ["step-00000040", "step-00000050"])
    assert not work.exists()


def test_other_processes_of_a_machine_share_its_folder(store, machine):
    machine("one")
    with stopped_work(store) as work:
        save(work, 10)
    machine("two")
    with store.work(RUN, writes=False) as first, store.work(RUN, writes=True) as second:
        assert first == second
        assert Checkpoints(first, "sft").newest().step == 10


@pytest.mark.parametrize("damage", ["altered", "missing", "manifest"])
def test_a_broken_checkpoint_is_passed_over(store, machine, capfd, damage):
    machine("one")
    with stopped_work(store) as work:
        for step in (10, 20):
            save(work, step)
            until(lambda step=step: f"step-{step:08d}" in steps(store))
    newest = f"{RUN}/checkpoints/step-00000020"
    if damage == "missing":
        store.remove(f"{newest}/state.bin")
    else:
        store.write(f"{newest}/{'state.bin' if damage == 'altered' else 'manifest.json'}", b"\x15" * 100)
    machine("two")
    with store.work(RUN, writes=True) as work:
        assert Checkpoints(work, "sft").newest().step == 10
    assert f"{newest} is passed over: " in capfd.readouterr().out


def test_small_files_follow_within_seconds_and_old_events_go(store, machine):
    store.write(f"{RUN}/tensorboard/events.old", b"old")
    store.write(f"{RUN}/launcher.log", b"not ours")
    machine("one")
    with store.work(RUN, writes=True) as work:
        heartbeat.start(work)
        (work / "tensorboard").mkdir()
        (work / "tensorboard" / "events.new").write_text("new")
        (work / "metrics.jsonl").write_text("{}\n")
        (work / "checkpoints").mkdir()
        (work / "checkpoints" / "half").write_text("")
        wanted = {"heartbeat.json", "launcher.log", "metrics.jsonl", "tensorboard/events.new"}
        until(lambda: {path.removeprefix(f"{RUN}/") for path in store.files(RUN)} == wanted)
        assert set(json.loads(store.read(f"{RUN}/heartbeat.json"))) == {"time", "step"}
        heartbeat.stop()
        (work / "metrics.jsonl").write_text("{}\n{}\n")
    assert store.read(f"{RUN}/metrics.jsonl") == b"{}\n{}\n"


def test_an_outage_does_not_stop_training(own_minio, own_cache, reach, capfd):
    reach(own_minio)
    store = S3Store(new_root())
    with stopped_work(store) as work:
        (work / "metrics.jsonl").write_text("1\n")
        until(lambda: store.files(RUN))
        own_minio.stop()
        for step in (10, 20):
            (work / "metrics.jsonl").write_text(f"{step}\n")
            save(work, step, 30 << 20)
            time.sleep(2.5)
        own_minio.start()
        until(lambda: steps(store) == ["step-00000020"])
    assert store.read(f"{RUN}/metrics.jsonl") == b"20\n"
    printed = capfd.readouterr().out
    assert printed.count("warning: ") == 2  # one for the checkpoints, one for the rest
    assert "the stage goes on" in printed


def test_a_store_that_is_gone_at_the_end_is_told(own_minio, own_cache, reach, monkeypatch, capfd):
    monkeypatch.setattr("components.common.mirror.LAST_PATIENCE", 1.0)
    reach(own_minio)
    store = S3Store(new_root())
    with stopped_work(store) as work:
        own_minio.stop()
        save(work, 10)
    assert "the last checkpoint is not in the store" in capfd.readouterr().out
    assert Checkpoints(work, "sft").newest().step == 10  # here it still is


def test_a_runs_folder_is_in_the_store_while_it_is_written(store, own_cache):
    with store.folder("runs/r") as folder:
        (folder / "kfp" / "a").mkdir(parents=True)
        (folder / "kfp" / "a" / "out").write_text("x")
        (folder / "run.log").write_text("line\n")
        until(lambda: store.files("runs/r") == ["runs/r/kfp/a/out", "runs/r/run.log"])
        (folder / "run.log").write_text("line\nlast\n")
    assert store.read("runs/r/run.log") == b"line\nlast\n"
    assert not folder.exists()
