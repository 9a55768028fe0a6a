"""What goes wrong with the store while a step of the cluster reads or writes: it ends with the cause, and whole."""

from __future__ import annotations

import json
import secrets
import time

import pytest

from components.common.artifacts import commit
from components.common.errors import InputError
from components.common.manifest import Manifest, list_files
from components.common.store import open_store
from tests.cluster.conftest import MINIO_IMAGE
from tests.cluster.test_faults import begin_run, said_steps
from tests.support.cluster import wait_until
from tests.support.cluster_minio import running_minio
from tests.support.cluster_steps import Launcher, Steps, lent_settings
from tests.support.commands import python


@pytest.fixture
def small_disk(cluster):
    """A MinIO whose disk holds 96 MiB."""
    with running_minio(cluster, MINIO_IMAGE, f"rlhf-test-full-{secrets.token_hex(3)}", size="96Mi") as server:
        yield server


def test_a_store_that_is_full_is_told_and_has_nothing_of_the_result(steps, small_disk, monkeypatch):
    bucket = small_disk.make_bucket()
    full = Steps(steps.cluster, steps.namespace, bucket, steps.lent)
    for name, value in full.variables().items():
        monkeypatch.setenv(name, value)
    launcher = full.launch("--steps=3", "--megabytes=200", store={"endpoint_url": bucket.endpoint})
    assert launcher.end() == 2, launcher.text
    assert said_steps(launcher.text) == [1, 2, 3]
    error = next(line for _, line in launcher.lines if line.startswith("error: "))
    assert "the store is full; free space in it or enlarge its disk" in error
    assert f"s3://{bucket.name}/artifacts/sft/{full.key}/" in error
    assert full.manifest() is None
    with pytest.raises(InputError, match="not a complete artifact"):
        open_store(bucket.root).fetch(f"artifacts/sft/{full.key}")
    full.check_nothing_is_left()


def test_a_store_that_is_away_for_a_while_is_waited_for(steps, minio):
    launcher = steps.launch("--steps=20", "--pause=0.5")
    launcher.wait_for("sft step 3/20")
    minio.scale(0)
    time.sleep(20)
    minio.scale(1)
    assert launcher.end(300) == 0, launcher.text
    assert said_steps(launcher.text) == list(range(1, 21))
    steps.check_nothing_is_left()


def test_cancel_in_an_upload_leaves_no_job_and_publishes_nothing(steps):
    begin_run(steps)
    prefix, store = f"artifacts/sft/{steps.key}", open_store(steps.bucket.root)
    launcher = steps.launch("--steps=2", "--megabytes=64", "--part-pause=300")
    launcher.wait_for("sft step 2/2")
    wait_until(lambda: store.files(prefix), 60, "the upload has begun")
    result = python("-m", "pipelines.cli", "cancel", steps.run, "-n", steps.namespace, **steps.variables())
    assert result.returncode == 0, result.stderr
    wait_until(lambda: not steps.jobs(), 5, "the job is gone")
    assert launcher.end(60) == 2, launcher.text
    assert "the run was cancelled" in launcher.text
    steps.check_nothing_is_left()
    assert steps.manifest() is None
    with pytest.raises(InputError, match="not a complete artifact"):
        store.fetch(prefix)

    later = Steps(steps.cluster, steps.namespace, steps.bucket, steps.lent, key=steps.key)
    launcher = later.launch("--steps=2", "--megabytes=64")
    assert launcher.end() == 0, launcher.text
    assert (store.fetch(prefix) / "big.bin").stat().st_size == 64 << 20, "fetch compares every byte's hash"
    later.check_nothing_is_left()


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [
        ("merge", {"base": ("model", "base"), "adapter": ("adapter", "sft")}),  # a Job
        ("sft", {"model": ("model", "base"), "dataset": ("dataset", "data-sft")}),  # a PyTorchJob
    ],
)
def test_an_altered_input_is_named_with_the_remedy(steps, stage, inputs):
    store = open_store(steps.bucket.root)
    uris = [f"--input={name}={store.root}/{given(store, kind, maker)}" for name, (kind, maker) in inputs.items()]
    altered = f"{given(store, *next(iter(inputs.values())))}/model.safetensors"
    store.bucket.put(store.key(altered), b"damaged!")
    settings = {stage: {}, "launcher": lent_settings(steps.lent, gpus_per_node=1)}
    store.write(f"runs/{steps.run}/config.yaml", json.dumps(settings).encode())
    config = f"--config={store.root}/runs/{steps.run}/config.yaml"
    command = ["-m", "components.launcher", "run", stage, config, *uris, "--of=sft"]
    launcher = Launcher(command, {**steps.variables(), "RLHF_CPU_STEPS": "job"})
    assert launcher.end() == 3, launcher.text
    said = next(line for _, line in launcher.lines if "✗" in line)
    assert f"{store.bucket.uri(store.key(altered))}: was altered: its sha256 is not the one in manifest.json" in said
    assert said.endswith("remove the artifact and run its stage again")
    assert not [path for path in store.files(f"artifacts/{stage}") if path.endswith("manifest.json")]
    steps.check_nothing_is_left()


def given(store, kind, maker):
    """An artifact with the file of a model, which is none; the same one each time. Returns its prefix."""
    folder, prefix = store.scratch(), f"artifacts/{maker}/k"
    (folder / "model.safetensors").write_bytes(b"12345678")
    commit(store, prefix, folder, Manifest(kind=kind, stage=maker, key="k", files=list_files(folder)))
    return prefix
