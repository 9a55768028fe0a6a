"""The manifests with kubectl alone: they build, the API server takes them, and steps follow each other."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
import yaml

from components.launcher.placement import placements, read_placement
from tests.cluster.conftest import ROOT
from tests.golden import manifests

FOLDER = ROOT / "manifests"
STEPS = list(manifests.steps())


def kubectl(*arguments, given="", check=True):
    result = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, result.stderr
    return result


def built(overlay):
    return list(yaml.safe_load_all(kubectl("kustomize", str(FOLDER / overlay)).stdout))


@pytest.mark.parametrize("name", placements())
def test_an_overlay_places_the_training_pods_and_no_others(name):
    placement = read_placement(name)
    for made in built(f"overlays/{name}"):
        training = made["kind"] == "PyTorchJob"
        holder = made["spec"]["pytorchReplicaSpecs"]["Master"] if training else made["spec"]
        pod = holder["template"]["spec"]
        assert pod.get("nodeSelector", {}) == (placement.node_selector if training else {})
        assert pod.get("tolerations", []) == (list(placement.tolerations) if training else [])


def test_the_kueue_overlay_queues_the_training_jobs():
    queues = {
        made["kind"]: made["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") for made in built("overlays/kueue")
    }
    assert queues == {"PyTorchJob": "t4", "Job": None}


def in_namespace(objects, namespace):
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "List",
            "items": [{**made, "metadata": {**made["metadata"], "namespace": namespace}} for made in objects],
        }
    )


def test_the_api_server_takes_every_object_without_a_warning(namespace):
    objects = [*built("base"), *built("overlays/gpu-operator")]
    placed = [made for made in objects if made["kind"] != "Namespace"]
    result = kubectl("apply", "--dry-run=server", "-n", namespace, "-f", "-", given=in_namespace(placed, namespace))
    assert "Warning" not in result.stderr, result.stderr
    assert len(result.stdout.splitlines()) == len(placed)


def step_objects(step, bucket, lent, preset):
    """A step's objects, for this test's bucket, on CPUs, in one process and with what is lent."""
    text = kubectl("kustomize", str(FOLDER / "steps")).stdout.replace(f"{manifests.ROOT}/", f"{bucket.root}/")
    objects = []
    for made in yaml.safe_load_all(text):
        if made["metadata"]["labels"][manifests.STEP_LABEL] != step:
            continue
        training = made["kind"] == "PyTorchJob"
        template = (made["spec"]["pytorchReplicaSpecs"]["Master"] if training else made["spec"])["template"]
        (container,) = template["spec"]["containers"]
        container["resources"] = {"requests": {"cpu": "100m", "memory": "256Mi"}}
        container["command"] = [_argument(part, bucket, preset) for part in container["command"]]
        for variable in container["env"]:
            if variable["name"] == "RLHF_STORE":
                variable["value"] = bucket.root
        lent.to(template)
        objects.append(made)
    return objects


def _argument(part, bucket, preset):
    if part == manifests.ROOT:
        return bucket.root
    return {"--nproc=4": "--nproc=1", manifests.PRESET: preset}.get(part, part)


def ended(namespace, step, count):
    """Whether each of a step's objects has come to its end, as the README's loop looks; the words of their states."""
    path = '{range .items[*]}{.status.conditions[?(@.status=="True")].type}{"\\n"}{end}'
    shown = kubectl(
        "get", "-n", namespace, "job,pytorchjob", "-l", f"rlhf-stack/step={step}", "-o", f"jsonpath={path}"
    ).stdout.splitlines()
    done = [line for line in shown if {"Complete", "Succeeded", "Failed"} & set(line.split())]
    return " ".join(shown).split() if len(done) == count else None


def run(step, namespace, bucket, lent, preset, seconds=900):
    objects = step_objects(step, bucket, lent, preset)
    kubectl("apply", "-n", namespace, "-f", "-", given=in_namespace(objects, namespace))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = ended(namespace, step, len(objects))
        if states:
            return states
        time.sleep(1)
    raise AssertionError(f"{step} has not ended: {kubectl('describe', 'pods', '-n', namespace).stdout[-3000:]}")


def small(tmp_path):
    """The toy world, barely trained, as a preset that every pod can read: YAML text."""
    config = yaml.safe_load((ROOT / "tests/support/toy.yaml").read_text())
    config["model"]["scratch"]["train"] = {**config["model"]["scratch"]["train"], "max_steps": 10}
    for stage in ("pretrain", "sft", "reward", "dpo"):
        config[stage]["max_steps"] = 4
    config["rl"] |= {"max_steps": 2, "num_eval_prompts": 8}
    return yaml.safe_dump(config)


def test_a_step_follows_another_and_one_before_its_time_says_what_is_missing(namespace, bucket, lent, tmp_path):
    preset = small(tmp_path)
    assert "Failed" in run("merge-pretrain", namespace, bucket, lent, preset, seconds=300)
    said = kubectl("logs", "-n", namespace, "-l", "rlhf-stack/stage=merge", "--tail=-1").stdout
    assert f"{bucket.root}/artifacts/merge" in said or f"{bucket.root}/artifacts/base/by-hand" in said
    kubectl("delete", "-n", namespace, "job", "-l", "rlhf-stack/step=merge-pretrain", "--wait=true")
    for step in ("prepare", "data", "pretrain", "merge-pretrain"):
        assert "Failed" not in run(step, namespace, bucket, lent, preset), step
    names = {entry.object_name for entry in bucket.client().list_objects(bucket.name, "artifacts/", recursive=True)}
    assert "artifacts/merge/by-hand-pretrain/manifest.json" in names


@pytest.mark.long
def test_the_whole_pipeline_runs_with_kubectl_alone(namespace, bucket, lent, tmp_path):
    preset = small(tmp_path)
    for step in STEPS:
        assert "Failed" not in run(step, namespace, bucket, lent, preset), step
    page = bucket.client().get_object(bucket.name, "runs/by-hand/report/index.html").read().decode()
    assert "by-hand" in page
