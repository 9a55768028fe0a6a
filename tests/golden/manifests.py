"""Makes the files below `manifests/`: what the launcher would create, under fixed names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from components.common.flows import flow_stages
from components.data.config import READERS
from components.launcher.config import LauncherConfig
from components.launcher.job import StageJob, stage_job
from components.launcher.objects import to_object
from components.launcher.placement import placements, read_placement
from components.launcher.pod import HUB_SECRET
from components.launcher.rules import role_rules
from components.names import CONFIG_MAP, SECRET

Object = dict[str, Any]

ROOT, RUN, NAMESPACE, PRESET = "s3://rlhf", "by-hand", "rlhf", "tiny-cpu"
# That preset is for one process; the jobs have one for each of four GPUs, and a batch is shared by all.
OVERRIDES = "pretrain.train_batch_size=8\nsft.train_batch_size=4"
CONFIG = f"{ROOT}/runs/{RUN}/config.yaml"
STEP_LABEL = "rlhf-stack/step"  # of the object alone: `kubectl apply -l` picks a step by it
QUEUE = "t4"
HEADER = "# Made by `make golden` from what the launcher creates; tests/golden/manifests.py says how.\n"


def artifact(stage: str, name: str = RUN) -> str:
    """A fixed URI in place of one that is made of a key."""
    return f"{ROOT}/artifacts/{stage}/{name}"


def merged(stage: str) -> str:
    """The model of a stage, merged."""
    return artifact("merge", f"{RUN}-{stage}")


def steps() -> dict[str, list[StageJob]]:
    """The jobs of each step of the rlhf pipeline, in the order in which they are run."""
    made: dict[str, list[StageJob]] = {
        "prepare": [_job("prepare", "prepare", {}, "", ["--preset", PRESET, "--overrides", OVERRIDES])],
        "data": [
            _job("data", f"data-{task}", {"model": artifact("base")}, artifact(f"data-{task}"), ["--task", task])
            for task in READERS
        ],
    }
    model, results = artifact("base"), {}
    for stage in flow_stages("rlhf"):
        inputs = {"model": model, "dataset": artifact(f"data-{stage}")}
        if stage == "rl":
            inputs |= {"reward": artifact("reward"), "reward_model": merged("reward")}
        made[stage] = [_job(stage, stage, inputs, artifact(stage))]
        adapter = {"base": model, "adapter": artifact(stage)}
        made[f"merge-{stage}"] = [_job("merge", f"merge-{stage}", adapter, merged(stage))]
        results |= {stage: artifact(stage), f"merge-{stage}": merged(stage)}
        if stage != "reward":  # rl goes on from sft's model: a reward model writes nothing
            model = merged(stage)
    judged = {"model": model, "before": artifact("base"), "reward": merged("reward"), "dataset": artifact("data-rl")}
    made["evaluate"] = [_job("evaluate", "evaluate", judged, artifact("evaluate"))]
    shown = {"prepare": artifact("base"), **results, "evaluate": artifact("evaluate")}
    done = [part for name, uri in shown.items() for part in ("--step", f"{name}={uri}")]
    made["report"] = [_job("report", "report", {}, "", done)]
    return made


def _job(stage: str, step: str, inputs: Mapping[str, str], output: str, more: list[str] | None = None) -> StageJob:
    arguments = ["--config", CONFIG] if stage != "prepare" else ["--run-id", RUN, "--base", artifact("base")]
    if output or stage == "prepare":
        arguments += ["--output", output or ROOT]
    arguments += [part for name, uri in inputs.items() for part in ("--input", f"{name}={uri}")]
    arguments += more or []
    return stage_job(RUN, stage, RUN, arguments, ROOT, LauncherConfig(), cluster=True, step=step, output=output)


def step_object(job: StageJob, step: str) -> Object:
    """A job as the launcher would create it, under a name that says what it is."""
    made = to_object(job)
    made["metadata"] |= {"name": f"rlhf-{job.title}", "labels": {**made["metadata"]["labels"], STEP_LABEL: step}}
    return made


def base() -> dict[str, list[Object]]:
    """What a namespace holds before any step."""
    rbac = "rbac.authorization.k8s.io"
    names = {"metadata": {"name": "rlhf-launcher"}}
    return {
        "namespace.yaml": [
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            }
        ],
        "accounts.yaml": [
            {"apiVersion": "v1", "kind": "ServiceAccount", **names},
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "rlhf-stage"},
                "automountServiceAccountToken": False,
            },
        ],
        "rbac.yaml": [
            {"apiVersion": f"{rbac}/v1", "kind": "Role", **names, "rules": role_rules()},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                **names,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "rlhf-launcher"},
                "subjects": [{"kind": "ServiceAccount", "name": "rlhf-launcher"}],
            },
        ],
    }


def examples() -> dict[str, list[Object]]:
    """What only the user can fill in."""
    keys = {"AWS_ACCESS_KEY_ID": "CHANGE-ME", "AWS_SECRET_ACCESS_KEY": "CHANGE-ME"}
    addresses = {
        "RLHF_STORE": ROOT,
        "AWS_ENDPOINT_URL": "http://minio:9000",
        "AWS_REGION": "us-east-1",
        "RLHF_REGISTRY": "ghcr.io/rlhf-stack",
        "RLHF_VERSION": "0.1.0",
    }

    def made(kind: str, name: str, **content: Any) -> list[Object]:
        return [{"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **content}]

    return {
        "configmap.yaml": made("ConfigMap", CONFIG_MAP, data=addresses),
        "secret.yaml": made("Secret", SECRET, stringData=keys),
        "hf-token.yaml": made("Secret", HUB_SECRET, stringData={"HF_TOKEN": "CHANGE-ME"}),
    }


def kustomization(resources: list[str], **more: Any) -> list[Object]:
    """A kustomization.yaml."""
    kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    return [{**kind, "namespace": NAMESPACE, "resources": resources, **more}]


def overlays() -> dict[str, list[Object]]:
    """A kustomization for each kind of cluster."""
    made = {}
    for name in placements():
        placement = read_placement(name)
        pod = {"nodeSelector": placement.node_selector, "tolerations": list(placement.tolerations)}
        made[name] = _patched([{"op": "add", "path": f"{_POD}/{field}", "value": pod[field]} for field in pod])
    label = {"op": "add", "path": "/metadata/labels/kueue.x-k8s.io~1queue-name", "value": QUEUE}
    return {**made, "kueue": _patched([label])}


_POD = "/spec/pytorchReplicaSpecs/Master/template/spec"


def _patched(operations: list[Object]) -> list[Object]:
    patch = {"target": {"kind": "PyTorchJob"}, "patch": yaml.safe_dump(operations, sort_keys=False)}
    return kustomization(["../../steps"], patches=[patch])


def files() -> Iterator[tuple[str, list[Object]]]:
    """Path below `manifests/` and content of every file that is made."""
    for name, objects in base().items():
        yield f"base/{name}", objects
    yield "base/kustomization.yaml", kustomization(list(base()))
    for name, objects in examples().items():
        yield f"examples/{name}", objects
    paths = []
    for number, (step, jobs) in enumerate(steps().items(), 1):
        paths.append(f"{number:02}-{step}.yaml")
        yield f"steps/{paths[-1]}", [step_object(job, step) for job in jobs]
    yield "steps/kustomization.yaml", kustomization(paths)
    for name, objects in overlays().items():
        yield f"overlays/{name}/kustomization.yaml", objects


def render(objects: list[Object]) -> str:
    """A file's text."""
    return HEADER + yaml.safe_dump_all(objects, sort_keys=False, width=120)
