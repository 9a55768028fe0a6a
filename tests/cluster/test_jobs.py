"""Whole runs driven from this machine: every step a job, through a MinIO that only the cluster's names lead to."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from components.common.artifacts import read_manifest
from components.common.inputs import split_uri
from components.common.store import open_store
from components.launcher.record import Run
from tests.support.cluster_steps import Launcher, Steps, kill_containers, lent_settings
from tests.support.commands import ROOT, python, rlhf

OFTEN = {"logging_steps": 1, "save_steps": 2}
SHORT = {
    "model": {"scratch": {"train": {"max_steps": 20}}},
    "pretrain": {"max_steps": 8, **OFTEN},
    "sft": {"max_steps": 8, "num_eval_prompts": 8, **OFTEN},
    "reward": {"max_steps": 8, **OFTEN},
    "rl": {"max_steps": 6, "num_eval_prompts": 8, **OFTEN},
    "evaluate": {"num_eval_prompts": 8},
}
STAGES = ("pretrain", "sft", "reward", "rl")


@pytest.fixture
def config(tmp_path, lent):
    def write(**settings):
        path = tmp_path / "short.yaml"
        path.write_text(yaml.safe_dump({**SHORT, "launcher": lent_settings(lent, **settings)}))
        return ["--preset", str(ROOT / "tests/support/toy.yaml"), "--config", str(path)]

    return write


def digests(run: Run) -> dict[str, str]:
    """Digest of each step's artifact."""
    found = {}
    for record in run.steps():
        root, prefix, _ = split_uri(record.uri)
        if record.step.startswith((*STAGES, "merge")):
            found[record.step] = read_manifest(open_store(root), prefix).digest
    return found


def test_a_run_whose_pods_are_killed_ends_like_an_undisturbed_run(
    cluster, namespace, bucket, config, tmp_path, monkeypatch
):
    for name in ("RLHF_STORE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["-m", "pipelines.cli", "run", "--on", "kubernetes", "-n", namespace, "--run-id", "r1", *config()]
    launcher = Launcher(arguments, {})
    for stage in STAGES:
        launcher.wait_for(f"{stage} step 3/", 600)
        if stage == "sft":
            look_at(namespace)
        kill_containers(f"components.{stage} .*/runs/r1/")
    assert launcher.end(900) == 0, launcher.text
    assert launcher.text.count("starts again: ") == len(STAGES), launcher.text
    assert all(f"{stage} goes on after step" in launcher.text for stage in STAGES), launcher.text
    assert not cluster.custom.list_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs")["items"]
    assert not cluster.batch.list_namespaced_job(namespace).items
    stored = rlhf("logs", "sft", "--run", "r1", "-n", namespace)
    assert re.findall(r"sft step \d+/8", stored.stdout), "the store has the log when the pod is gone"

    here = tmp_path / "here"
    local = [*config(nproc_per_node=4), "--store", str(here), "--run-id", "r1"]
    result = rlhf("run", *local)
    assert result.returncode == 0, result.stderr
    for name, value in {**bucket.settings(host=True), **bucket.secret()}.items():
        monkeypatch.setenv(name, value)
    assert digests(Run(open_store(bucket.root), "r1")) == digests(Run(open_store(str(here)), "r1"))


def look_at(namespace):
    """What a person sees of a run while its sft runs."""
    status = rlhf("status", "r1", "-n", namespace)
    assert re.search(r"sft +running .* rlhf-sft-\w+\n +Running\n +pod rlhf-sft-\w+-master-0 Running on", status.stdout)
    logs = rlhf("logs", "sft", "--run", "r1", "-n", namespace)
    assert "sft step" in logs.stdout, logs


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
    assert rlhf("cancel", steps.run, "-n", namespace).returncode != 0, "no such run: it was never begun"
    assert python("-m", "components.launcher", "cancel", steps.run).returncode == 0
    assert launcher.end(60) == 2
    steps.check_nothing_is_left()


def decoded(value: str) -> str:
    import base64

    return base64.b64decode(value).decode()


def test_a_dry_run_prints_what_the_cluster_would_be_given(namespace, bucket, monkeypatch):
    for name, value in {**bucket.settings(host=True), **bucket.secret()}.items():
        monkeypatch.setenv(name, value)
    store = open_store(bucket.root)
    store.write("runs/r1/config.yaml", json.dumps({"launcher": {"gpus_per_node": 2}}).encode())
    missing = python("-m", "components.launcher", "print", "sft", "--config", f"{bucket.root}/runs/r1/config.yaml")
    assert missing.returncode == 2
    assert "is missing; --input" in missing.stderr
