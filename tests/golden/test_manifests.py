"""The files below `manifests/` are what the launcher would create. `make golden` writes them anew."""

from __future__ import annotations

import itertools
import os

import pytest
import yaml

from components.common.flows import flow_stages
from components.common.inputs import split_uri
from components.launcher.job import LABEL_STAGE
from components.prepare.resolve import Request, resolve
from tests.golden import manifests
from tests.support.commands import ROOT
from tests.support.objects import mistakes

FOLDER = ROOT / "manifests"
FILES = dict(manifests.files())
STEPS = {job.title: job for jobs in manifests.steps().values() for job in jobs}


@pytest.mark.parametrize("path", FILES)
def test_the_file_is_what_the_launcher_would_create(path):
    file = FOLDER / path
    if os.environ.get("RLHF_REGENERATE"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(manifests.render(FILES[path]))
    assert list(yaml.safe_load_all(file.read_text())) == FILES[path]


def test_there_are_no_other_files():
    found = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert found == {*FILES, "README.md"}


@pytest.mark.parametrize("path", [path for path in FILES if not path.endswith("kustomization.yaml")])
def test_objects_have_only_fields_that_their_kinds_have(path):
    assert [fault for made in FILES[path] for fault in mistakes(made)] == []


def test_every_input_of_a_step_is_the_result_of_one_before_it():
    made = {manifests.artifact("base")}
    for job in STEPS.values():
        arguments = list(job.arguments)
        given = [arguments[i + 1] for i, part in enumerate(arguments) if part == "--input"]
        assert {uri.partition("=")[2] for uri in given} <= made, job.title
        if job.output:
            assert job.output == arguments[arguments.index("--output") + 1]
            assert split_uri(job.output)[0] == manifests.ROOT
            made.add(job.output)


def test_batches_can_be_shared_by_the_processes_of_a_job():
    given = dict(itertools.pairwise(STEPS["prepare"].arguments))
    settings = resolve(Request(given["--preset"], overrides=given["--overrides"]))
    processes = {stage: STEPS[stage].processes for stage in flow_stages("rlhf")}
    assert set(processes.values()) == {4}
    for stage in ("pretrain", "sft", "reward"):
        assert getattr(settings, stage).train_batch_size % processes[stage] == 0, stage
    assert settings.rl.rollout_batch_size % (processes["rl"] * settings.rl.num_mini_batches) == 0


@pytest.mark.parametrize("name", STEPS)
def test_a_step_takes_the_arguments_that_it_is_given(name):
    """The command line of each container, up to where it would begin to work."""
    import importlib

    from components.common import entry

    job = STEPS[name]
    module = importlib.import_module(f"{job.module}.__main__")
    arguments = job.command[3:]
    if hasattr(module, "_parser"):
        module._parser().parse_args(arguments)
    elif job.stage != "report":
        spec = importlib.import_module(f"{job.module}.config").SPEC
        parsed = entry._parser(spec).parse_args(arguments)
        assert set(dict(parsed.input)) <= set(spec.inputs)


def test_overlays_patch_the_training_jobs_alone():
    for name in manifests.overlays():
        (made,) = FILES[f"overlays/{name}/kustomization.yaml"]
        (patch,) = made["patches"]
        assert patch["target"] == {"kind": "PyTorchJob"}
        assert made["resources"] == ["../../steps"]


def test_training_pods_ask_for_four_gpus_and_hold_no_token():
    training = [made for objects in FILES.values() for made in objects if made["kind"] == "PyTorchJob"]
    assert [made["metadata"]["labels"][LABEL_STAGE] for made in training] == [
        "pretrain",
        "sft",
        "reward",
        "rl",
        "evaluate",
    ]
    for made in training:
        pod = made["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_a_hub_token_is_optional_and_goes_to_the_steps_that_ask_the_hub():
    for made in (made for objects in FILES.values() for made in objects if made["kind"] == "Job"):
        env = {variable["name"]: variable for variable in made["spec"]["template"]["spec"]["containers"][0]["env"]}
        asks = made["metadata"]["labels"][LABEL_STAGE] in ("prepare", "data")
        assert ("HF_TOKEN" in env) is asks
        if asks:
            assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
