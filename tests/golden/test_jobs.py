"""Steps as Kubernetes objects, compared by meaning with those in the tree. `make golden` writes them anew."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from components.launcher.config import LauncherConfig
from components.launcher.job import GPU_STAGES, StageJob, resources_of
from components.launcher.objects import to_object
from components.launcher.placement import placement_of, placements, read_placement

GOLDEN = Path(__file__).parent / "jobs"
KEY = "0123456789abcdef"


def step(stage, **settings):
    config = LauncherConfig.model_validate({"namespace": "rlhf", "placement": "gpu-operator", **settings})
    training = stage in GPU_STAGES
    arguments = ("--config", "s3://rlhf/runs/run-1/config.yaml", "--output", f"s3://rlhf/artifacts/{stage}/{KEY}")
    return StageJob(
        run="run-1",
        stage=stage,
        key=KEY,
        module=f"components.{stage}",
        arguments=arguments,
        root="s3://rlhf",
        output=arguments[-1],
        image=f"registry.example/{stage}:1.0",
        nodes=config.nodes if training else 1,
        processes=config.gpus_per_node if training else 1,
        gpus_per_node=config.gpus_per_node if training else 0,
        resources=resources_of(stage, config),
        placement=placement_of(config, gpus=training),
        config=config,
    )


STEPS = {
    "one-pod-four-gpus": step("sft"),
    "four-pods-one-gpu": step("sft", nodes=4, gpus_per_node=1, queue_name="t4", priority_class_name="batch"),
    "cpu-step": step("merge", resources={"merge": {"memory": "16Gi"}}, image_pull_secrets=["registry"]),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_object_is_the_one_in_the_tree(name):
    made = to_object(STEPS[name])
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("RLHF_REGENERATE"):
        golden.write_text(yaml.safe_dump(made, sort_keys=False))
    assert yaml.safe_load(golden.read_text()) == made


def pods(made):
    replicas = made["spec"].get("pytorchReplicaSpecs")
    return [replica["template"] for replica in replicas.values()] if replicas else [made["spec"]["template"]]


@pytest.mark.parametrize("name", STEPS)
def test_pods_meet_the_restricted_standard_and_hold_no_token_and_no_secret(name):
    for template in pods(to_object(STEPS[name])):
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert all("value" not in variable for variable in container["env"] if "KEY" in variable["name"])
        assert template["metadata"]["labels"] == {
            "rlhf-stack/run": "run-1",
            "rlhf-stack/stage": STEPS[name].stage,
            "rlhf-stack/key": KEY,
        }


def test_gpus_are_asked_for_by_training_alone_and_once_a_process():
    for name, gpus in {"one-pod-four-gpus": ["4"], "four-pods-one-gpu": ["1", "1"]}.items():
        containers = [template["spec"]["containers"][0] for template in pods(to_object(STEPS[name]))]
        assert [container["resources"]["limits"]["nvidia.com/gpu"] for container in containers] == gpus
        assert all(f"--nproc={count}" in c["command"] for c, count in zip(containers, gpus, strict=True))
    (template,) = pods(to_object(STEPS["cpu-step"]))
    assert "nvidia.com/gpu" not in template["spec"]["containers"][0]["resources"]["requests"]


def test_the_names_of_jobs_are_short_and_differ_by_run_stage_and_key():
    base = STEPS["one-pod-four-gpus"]
    names = {base.name}
    for field in ("run", "stage", "key"):
        names.add(dataclasses.replace(base, **{field: "x" * 60 if field != "stage" else "evaluate"}).name)
    assert len(names) == 4
    assert all(len(name) <= 40 for name in names)
    assert base.name == dataclasses.replace(base, image="another", arguments=()).name


def test_an_owner_takes_the_job_with_it():
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    assert to_object(STEPS["cpu-step"], owner)["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("name", placements())
def test_every_placement_selects_nodes_and_tolerates_their_taints(name):
    placement = read_placement(name)
    assert placement.node_selector
    assert all({"key", "operator", "effect"} <= set(taint) for taint in placement.tolerations)


def test_there_is_a_placement_for_each_name_that_the_configuration_takes():
    named = LauncherConfig.model_fields["placement"].annotation.__args__
    assert sorted(name for name in named if name) == placements()
