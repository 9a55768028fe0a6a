"""Whole runs driven from this machine: every step a job, through a MinIO that only the cluster's names lead to."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.common.artifacts import read_manifest
from components.common.inputs import split_uri
from components.common.store import open_store
from components.launcher.record import Run
from tests.support.cluster import Cluster, wait_until
from tests.support.cluster_minio import Bucket
from tests.support.cluster_steps import Launcher, Steps, kill_containers, lent_settings
from tests.support.commands import ROOT, python, rlhf
from tests.support.lent import Lent

OFTEN = {"logging_steps": 1, "save_steps": 2}
SHORT = {
    "model": {"scratch": {"train": {"max_steps": 20}}},
    "pretrain": {"max_steps": 24, **OFTEN},
    "sft": {"max_steps": 24, "num_eval_prompts": 8, **OFTEN},
    "reward": {"max_steps": 24, **OFTEN},
    "rl": {"max_steps": 8, "num_eval_prompts": 8, **OFTEN},
    "evaluate": {"num_eval_prompts": 8},
}
STAGES = ("pretrain", "sft", "reward", "rl")


def asked(folder: Path, lent: Lent, **settings: Any) -> list[str]:
    """What is asked of every run here, with settings of its launcher."""
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump({**SHORT, "launcher": lent_settings(lent, **settings)}))
    return ["--preset", str(ROOT / "tests/support/toy.yaml"), "--config", str(path)]


def digests(run: Run) -> dict[str, str]:
    """Digest of each step's artifact: of its files, its metrics, and so of all that it was made from."""
    found = {}
    for record in run.steps():
        root, prefix, _ = split_uri(record.uri)
        if record.step.startswith((*STAGES, "merge")):
            found[record.step] = read_manifest(open_store(root), prefix).digest
    assert len(found) == 2 * len(STAGES)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, lent):
    """The same run on this machine, with as many processes and no faults."""
    folder = tmp_path_factory.mktemp("here")
    arguments = [*asked(folder, lent, nproc_per_node=4), "--store", str(folder / "store"), "--run-id", "here"]
    result = rlhf("run", *arguments, timeout=1200)
    assert result.returncode == 0, result.stdout + result.stderr
    return Run(open_store(str(folder / "store")), "here")


@pytest.fixture
def drive(namespace, lent, tmp_path, monkeypatch):
    """Starts `rlhf run --on kubernetes` as on a laptop: what it must know of the store, the namespace tells."""
    for name in ("RLHF_STORE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)

    def start(run: str, **settings: Any) -> Launcher:
        where = ["--on", "kubernetes", "-n", namespace, "--run-id", run]
        return Launcher(["-m", "pipelines.cli", "run", *where, *asked(tmp_path, lent, **settings)], {})

    return start


@pytest.fixture
def made(bucket, monkeypatch):
    """A run in the test's bucket."""

    def of(run: str) -> Run:
        for name, value in {**bucket.settings(host=True), **bucket.secret()}.items():
            monkeypatch.setenv(name, value)
        return Run(open_store(bucket.root), run)

    return of


def test_a_run_whose_pods_are_lost_ends_like_an_undisturbed_run(cluster, namespace, bucket, drive, made, undisturbed):
    """Bit by bit: a digest is that of all files and metrics."""
    run = f"run-{secrets.token_hex(3)}"  # unlike any other on this machine: its processes are found by it
    launcher = drive(run)
    for stage in STAGES:
        if stage == "sft":
            launcher.wait_for("sft job rlhf-sft", 600)
            look_at(namespace, run)  # while it imports its libraries: its steps are over in seconds
        wait_for_checkpoint(bucket, stage, launcher)
        if stage in ("pretrain", "rl"):
            kill_containers(f"components.{stage} .*/runs/{run}/")
        else:  # with the pod goes its disk, so that what goes on comes from the store
            labels = f"rlhf-stack/run={run},rlhf-stack/stage={stage}"
            cluster.core.delete_collection_namespaced_pod(namespace, label_selector=labels, grace_period_seconds=0)
        launcher.wait_for(f"{stage} goes on after step", 240)
    assert launcher.end(600) == 0, launcher.text
    assert launcher.text.count("starts again: ") == 2, launcher.text
    check_no_jobs(cluster, namespace)
    stored = rlhf("logs", "sft", "--run", run, "-n", namespace)
    assert re.findall(r"sft step \d+/24", stored.stdout), "the store has the log when the pod is gone"
    assert digests(made(run)) == digests(undisturbed)


def test_four_pods_of_one_gpu_give_what_four_processes_in_one_pod_give(cluster, namespace, drive, made, undisturbed):
    launcher = drive("r1", nodes=4, gpus_per_node=1)
    launcher.wait_for("sft step 2/", 900)
    pods = cluster.core.list_namespaced_pod(namespace, label_selector="rlhf-stack/stage=sft").items
    assert len(pods) == 4
    assert {pod.spec.containers[0].resources.limits["nvidia.com/gpu"] for pod in pods} == {"1"}
    assert launcher.end(900) == 0, launcher.text
    check_no_jobs(cluster, namespace)
    assert digests(made("r1")) == digests(undisturbed), "bit by bit"


def wait_for_checkpoint(bucket: Bucket, stage: str, launcher: Launcher) -> None:
    """Waits until a stage has a checkpoint in the bucket."""
    client = bucket.client()

    def is_there() -> bool:
        assert launcher.process.poll() is None, launcher.text
        found = client.list_objects(bucket.name, prefix=f"work/{stage}/", recursive=True)
        return any(
            "/checkpoints/" in each.object_name and each.object_name.endswith("/manifest.json") for each in found
        )

    wait_until(is_there, 900, f"{stage} has a checkpoint")


def check_no_jobs(cluster: Cluster, namespace: str) -> None:
    """No job of a run that has ended is left, so no pod holds a GPU."""
    assert not cluster.pytorchjobs(namespace)
    assert not cluster.batch.list_namespaced_job(namespace).items


def look_at(namespace: str, run: str) -> None:
    """What a person sees of a run while its sft runs."""
    running = r"sft +running .* rlhf-sft-\w+\n +Running\n +pod rlhf-sft-\w+-master-0 Running on"

    def is_seen() -> bool:
        return bool(re.search(running, rlhf("status", run, "-n", namespace).stdout))

    wait_until(is_seen, 60, "status shows that sft runs")


def test_a_stages_pod_reads_its_inputs_and_writes_its_own_folders_only(
    cluster, namespace, bucket, lent, monkeypatch, tmp_path
):
    steps = Steps(cluster, namespace, bucket, lent)
    for name, value in steps.variables().items():
        monkeypatch.setenv(name, value)
    open_store(bucket.root).write("runs/other/config.yaml", b"secret: yes\n")
    launcher = steps.launch("--steps=600", "--pause=0.5")
    launcher.wait_for("sft step 2/")
    secret = cluster.core.read_namespaced_secret(steps.name, namespace)
    assert set(secret.data) == {"credentials"}
    assert secret.metadata.owner_references[0].kind == "PyTorchJob"
    keys = tmp_path / "credentials"
    keys.write_text(decoded(secret.data["credentials"]))
    variables = {"AWS_SHARED_CREDENTIALS_FILE": str(keys), "AWS_ACCESS_KEY_ID": ""}
    code = "import sys; from components.common.store import open_store; s = open_store(sys.argv[1]); "
    own = python("-c", code + f"s.write('work/sft/{steps.key}/x', b'')", bucket.root, **variables)
    assert own.returncode == 0, own.stderr
    for deed in ("s.write('artifacts/rl/x/y', b'')", "s.read('runs/other/config.yaml')"):
        refused = python("-c", code + deed, bucket.root, **variables)
        assert refused.returncode != 0, deed
        assert re.search("denied|may not|refuse", refused.stderr, re.IGNORECASE), refused.stderr
    cancelled = rlhf("cancel", steps.run, "-n", namespace)
    assert cancelled.returncode == 0, f"the cluster knows it, though it has no configuration: {cancelled.stderr}"
    assert launcher.end(60) == 2
    steps.check_nothing_is_left()


def decoded(value: str) -> str:
    import base64

    return base64.b64decode(value).decode()


def test_a_pod_can_do_with_its_keys_what_its_stage_needs_and_nothing_else(steps):
    """Tried from inside the pod."""
    store, made, other = open_store(steps.bucket.root), "artifacts/merge/made", "artifacts/merge/other"
    for folder in (made, other):
        store.write(f"{folder}/manifest.json", b"{}")
    steps.module, steps.reads = "tests.support.key_probe", (made,)
    launcher = steps.launch("--read", made, "--other", other)
    assert launcher.end(300) == 0, launcher.text
    told = [text.partition(" facts ")[2] for _, text in launcher.lines if " facts {" in text]
    assert len(told) == 1, launcher.text
    done = ("reads its input", "lists its input", "writes its artifact folder", "deletes in its artifact folder")
    done += ("writes its work folder", "reads its work folder")
    denied = ("reads another's folder", "lists another's folder", "writes its input's folder")
    denied += ("writes another's folder", "writes another's work folder", "lists the root")
    assert json.loads(told[0]) == {
        **dict.fromkeys(done, "done"),
        **dict.fromkeys(denied, "access denied"),
        "has a Kubernetes token": "False",
        "has the store's own keys": "False",
    }
    assert store.files(made) == [f"{made}/manifest.json"]
    assert store.files(other) == [f"{other}/manifest.json"]
    assert store.read(f"work/sft/{steps.key}/{steps.run}/probe") == b"1"


def test_a_dry_run_prints_what_the_cluster_would_be_given(namespace, bucket, monkeypatch):
    for name, value in {**bucket.settings(host=True), **bucket.secret()}.items():
        monkeypatch.setenv(name, value)
    store = open_store(bucket.root)
    store.write("runs/r1/config.yaml", json.dumps({"launcher": {"gpus_per_node": 2}}).encode())
    missing = python("-m", "components.launcher", "print", "sft", "--config", f"{bucket.root}/runs/r1/config.yaml")
    assert missing.returncode == 2
    assert "is missing; --input" in missing.stderr
