"""The compiled pipelines, compared by meaning with those in the tree. `make golden` writes them anew."""

import itertools
import os
from pathlib import Path

import pytest
import yaml
from kfp import compiler

from components.common.flows import flow_steps
from pipelines.cli.load import load_pipeline
from tests.support.commands import ROOT

GOLDEN = Path(__file__).parent
CHAINS = {
    "rlhf": [
        *("prepare", "data", "pretrain", "merge", "sft", "merge-2", "reward", "merge-3", "rl", "merge-4"),
        *("evaluate", "report"),
    ],
    "dpo": ["prepare", "data", "pretrain", "merge", "sft", "merge-2", "dpo", "merge-3", "evaluate", "report"],
}


@pytest.fixture(scope="module", params=CHAINS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("compiled") / f"{name}.yaml"
    compiler.Compiler().compile(load_pipeline(ROOT / "pipelines" / f"{name}.py"), str(path))
    return list(yaml.safe_load_all(path.read_text()))  # the pipeline, and what is Kubernetes' own


@pytest.fixture(scope="module")
def pipeline(compiled):
    return compiled[0]


def test_the_compiled_pipeline_is_the_one_in_the_tree(compiled, name):
    golden = GOLDEN / f"{name}.yaml"
    documents = [{key: value for key, value in part.items() if key != "sdkVersion"} for part in compiled]
    if os.environ.get("RLHF_REGENERATE"):
        golden.write_text(yaml.safe_dump_all(documents, sort_keys=True))
    assert list(yaml.safe_load_all(golden.read_text())) == documents


def test_the_steps_follow_one_another_with_a_merge_after_each_stage(pipeline, name):
    tasks = pipeline["root"]["dag"]["tasks"]
    assert set(tasks) == set(CHAINS[name])

    def ancestors(name):
        direct = tasks[name].get("dependentTasks", [])
        return set(direct).union(*(ancestors(task) for task in direct))

    for before, after in itertools.pairwise(CHAINS[name]):
        assert before in ancestors(after), f"{after} does not wait for {before}"


def test_every_step_runs_the_launcher_image_uncached_and_installs_nothing(pipeline):
    tasks = pipeline["root"]["dag"]["tasks"]
    for name, task in tasks.items():
        assert not task.get("cachingOptions"), name
        assert "pipelinechannel--launcher_image" in task["inputs"]["parameters"], name
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        command = " ".join(executor["container"]["command"])
        assert "pip install" not in command, name
        body = executor["container"]["command"][-1].split('"""')[-1]
        assert len([line for line in body.splitlines() if line.strip()]) <= 5, name


def test_the_flow_of_the_same_name_lists_the_steps(pipeline, name):
    tasks = pipeline["root"]["dag"]["tasks"]
    constants = tasks["prepare"]["inputs"]["parameters"]["pipeline"]
    assert constants == {"runtimeValue": {"constant": name}}
    names = {task: fields["taskInfo"]["name"].replace(" ", "-") for task, fields in tasks.items()}
    assert [names[task] for task in CHAINS[name]] == list(flow_steps(name))


def test_the_parameters_have_defaults_that_need_no_network(pipeline):
    parameters = pipeline["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"preset", "config", "overrides", "model", "data", "launcher_image", "seed"}
    assert all(parameter["isOptional"] for parameter in parameters.values())
    assert parameters["preset"]["defaultValue"] == "tiny-cpu"


def test_every_step_knows_its_run(compiled, pipeline):
    platforms = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(platforms) == set(pipeline["deploymentSpec"]["executors"])
    for executor in platforms.values():
        names = {env["name"]: env["fieldPath"] for env in executor["fieldPathAsEnv"]}
        assert names == {"RLHF_RUN_ID": "metadata.labels['pipeline/runid']"}
