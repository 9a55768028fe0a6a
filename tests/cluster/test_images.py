"""Our own images, built by this run, in pods of a namespace that enforces `restricted`."""

from __future__ import annotations

import json

import pytest

from components.common.store import open_store
from components.launcher.record import Run
from tests.support.cluster import pod
from tests.support.commands import rlhf

TRAINING = ["pretrain", "sft", "reward", "rl", "dpo", "evaluate"]
ENTRIES = {"launcher": "Usage: rlhf", "data": "usage: python -m components.data"}
STEPS = [
    *("prepare", "data", "pretrain", "merge-pretrain", "sft", "merge-sft", "reward", "merge-reward"),
    *("rl", "merge-rl", "evaluate", "report"),
]
# What a container says of itself.
FACTS = """
import importlib, importlib.util, json, os, pathlib, shutil, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({
    "user": os.getuid(),
    "name": __import__("getpass").getuser(),
    "tools": [tool for tool in ("gcc", "cc", "g++", "clang", "make", "git", "curl", "wget") if shutil.which(tool)],
    "torch": importlib.util.find_spec("torch") is not None,
    "writable": [folder for folder in ("/", "/opt/venv", "/usr", "/etc") if os.access(folder, os.W_OK)],
    "ours": importlib.import_module("components").__file__,
    "stale": [str(path) for path in pathlib.Path("/opt/venv").rglob("components/*/*.py")
              if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))],
}))
"""
# A run in which every step happens and none learns much.
SHORT = [
    "model.scratch.train.max_steps=20",
    *(f"{stage}.max_steps=4" for stage in ("pretrain", "sft", "reward")),
    *(f"{stage}.max_heldout=16" for stage in ("data.pretrain", "data.sft", "data.reward", "data.rl")),
    *(f"{stage}.num_eval_prompts=8" for stage in ("sft", "rl", "evaluate")),
    *("pretrain.train_batch_size=4", "sft.train_batch_size=4", "rl.max_steps=2", "rl.rollout_batch_size=16"),
    *("rl.per_device_train_batch_size=8", "rl.solve_rate=null", "launcher.gpus_per_node=4"),
    *(f"launcher.resources.{kind}.cpu=100m" for kind in ("training", "cpu")),
    *(f"launcher.resources.{kind}.memory=4Gi" for kind in ("training", "cpu")),
]


def facts(cluster, namespace, image, *modules):
    result = cluster.run_pod(namespace, pod("facts", image, ["python", "-c", FACTS, *modules]), seconds=300)
    assert result.exit_code == 0, result
    return json.loads(result.log.splitlines()[-1])


@pytest.mark.parametrize(
    ("target", "modules"),
    [
        ("launcher", ["kfp", "kubernetes", "minio", "safetensors", "components.merge.stage", "components.report.page"]),
        ("data", ["transformers", "simple_icd_10_cm", "pyarrow.parquet", "components.data.stage"]),
    ],
)
def test_a_small_image_holds_what_its_steps_import_and_nothing_to_build_with(
    cluster, namespace, small_images, target, modules
):
    assert facts(cluster, namespace, small_images(target), *modules) == {
        "user": 1000,
        "name": "rlhf",
        "tools": [],
        "torch": False,
        "writable": [],
        "ours": "/opt/venv/lib/python3.11/site-packages/components/__init__.py",
        "stale": [],
    }


@pytest.mark.parametrize("target", ENTRIES)
def test_a_small_image_starts_its_step(cluster, namespace, small_images, target):
    result = cluster.run_pod(namespace, pod("entry", small_images(target), []))
    assert result.exit_code == 0, result
    assert result.log.startswith(ENTRIES[target])


def test_training_images_hold_what_stages_import_and_start_them(cluster, namespace, images):
    found = facts(cluster, namespace, images("sft"), "torch", "trl", "peft", "transformers", "datasets", "bitsandbytes")
    assert (found["user"], found["tools"], found["torch"], found["writable"]) == (1000, [], True, [])
    for target in TRAINING:
        result = cluster.run_pod(namespace, pod(f"entry-{target}", images(target), []))
        assert result.exit_code == 0, result
        assert f"components.{target}" in result.log.splitlines()[0]


def test_a_whole_run_of_real_images_under_restricted(cluster, namespace, images, bucket, monkeypatch):
    del images
    result = rlhf("run", "--on", "kubernetes", "-n", namespace, "--run-id", "images", *SHORT, timeout=1500)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{cluster.events(namespace)}"
    for name, value in {**bucket.secret(), **bucket.settings(host=True)}.items():
        monkeypatch.setenv(name, value)
    run = Run(open_store(bucket.root), "images")
    assert {record.step: record.state for record in run.steps()} == dict.fromkeys(STEPS, "done")
    assert run.store.exists("runs/images/report/index.html")
    assert not cluster.custom.list_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs")["items"]
