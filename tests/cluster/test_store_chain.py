"""A whole run through a bucket: killed in the middle of a stage, gone on with elsewhere, and the same as on a disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common.inputs import split_uri
from components.common.manifest import Manifest
from components.common.s3 import S3Store
from components.common.store import open_store
from components.launcher.record import Run
from tests.stages.conftest import TOY
from tests.support.commands import ROOT, environment, rlhf

pytest_plugins = ("tests.support.store_fixtures",)

# Few steps: here it matters that they are the same, not what they teach.
SHORT = [
    "model.scratch.train.max_steps=20",
    *(f"{stage}.max_steps=12" for stage in ("pretrain", "reward")),
    "sft.max_steps=150",  # long enough for a checkpoint to be in the store before the end
    *(f"{stage}.num_eval_prompts=8" for stage in ("sft", "rl", "evaluate")),
    *("rl.max_steps=40", "rl.save_steps=4", "sft.save_steps=3"),
]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """The same run in a directory."""
    folder = tmp_path_factory.mktemp("disk")
    result = rlhf("run", "--preset", TOY, "--store", str(folder / "store"), "--run-id", "r", *SHORT)
    assert result.returncode == 0, result.stdout + result.stderr
    return results(str(folder / "store"))


def results(root):
    """Digest of each step's result."""
    run = Run(open_store(root), "r")
    prefixes = {record.step: split_uri(record.uri)[1] for record in run.steps() if record.step != "data"}
    found = {step: run.store.read(f"{prefix}/manifest.json") for step, prefix in prefixes.items() if prefix}
    return {step: Manifest.model_validate_json(content).digest for step, content in found.items()}


def start(root, cache: Path, log: Path, *arguments):
    command = [sys.executable, "-m", "pipelines.cli", "run", "--store", root, "--run-id", "r", *arguments, *SHORT]
    with log.open("w") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(RLHF_CACHE=str(cache)), stdout=file, stderr=subprocess.STDOUT
        )


def descendants(ancestor):
    """A process and all that it has started, at first or second hand; pods' processes are seen here, too."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for pid in found:  # grows as it is walked
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def test_killed_in_two_stages_and_gone_on_with_on_another_machine(root, store, on_disk, tmp_path):
    config = f"{root}/settings/toy.yaml"
    store.write("settings/toy.yaml", Path(TOY).read_bytes())
    for attempt, stage in enumerate(("sft", "rl")):
        log = tmp_path / f"{stage}.log"
        process = start(root, tmp_path / f"machine{attempt}", log, "--preset", config)
        try:
            lose_after_checkpoint(store, stage, process, log)
        finally:
            process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL, log.read_text()
        assert f"\n{stage} finished" not in log.read_text()
    log = tmp_path / "last.log"
    assert start(root, tmp_path / "machine2", log, "--preset", config).wait(timeout=600) == 0, log.read_text()
    printed = log.read_text()
    assert "sft ✓ reused" in printed
    assert "rl goes on after step" in printed
    assert f"report ✓ {root}/runs/r/report/index.html" in printed
    assert results(root) == on_disk
    assert not [path for path in store.files("work") if "/checkpoints/" in path]
    assert {path.rpartition("/")[2] for path in store.files("work/rl")} >= {
        "metrics.jsonl",
        "log.txt",
        "heartbeat.json",
    }
    assert b"rl step" in store.read("runs/r/run.log")
    record = json.loads(store.read("runs/r/record.json"))
    assert {step["state"] for step in record["steps"]} <= {"done", "reused"}


def lose_after_checkpoint(store: S3Store, stage, process, log):
    """Ends a run with all its processes, as a machine that is lost does, once a stage's checkpoint is in the store."""
    deadline = time.monotonic() + 600
    while not [p for p in store.files(f"work/{stage}") if "/checkpoints/" in p and p.endswith("/manifest.json")]:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    for pid in descendants(process.pid):  # the run first: it would start a killed step again
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_models_are_used_from_the_bucket(root, store, tmp_path, own_cache):
    off = [f"{stage}.enabled=false" for stage in ("pretrain", "rl", "evaluate")]
    result = rlhf("run", "--preset", TOY, "--store", root, "--run-id", "r", *SHORT, *off)
    assert result.returncode == 0, result.stdout + result.stderr
    uris = {record.step: record.uri for record in Run(store, "r").steps()}
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "What did Bada the cat say?"}\n')
    answers, scores = tmp_path / "answers.jsonl", tmp_path / "scores.jsonl"
    sampling = ["--max-completion-length", "4"]
    result = rlhf("generate", uris["merge-sft"], str(tmp_path / "prompts.jsonl"), str(answers), *sampling)
    assert result.returncode == 0, result.stderr
    result = rlhf("score", uris["reward"], str(answers), str(scores))
    assert result.returncode == 0, result.stderr
    assert all("score" in json.loads(line) for line in scores.read_text().splitlines())

    # A model of the bucket, taken out, put in as somebody's own, is the base of another run.
    assert rlhf("get", uris["merge-sft"], str(tmp_path / "model")).returncode == 0
    uploaded = rlhf("put", str(tmp_path / "model"), "--store", root).stdout.strip()
    again = ["--store", root, "--preset", TOY, *SHORT, *off, "reward.enabled=false"]
    for model in (uris["merge-sft"], uploaded):
        result = rlhf("run", *again, "--model", model)
        assert result.returncode == 0, result.stdout + result.stderr
