"""The compiled pipelines, compared by meaning with those in the tree. `make golden` writes them anew."""

import itertools
import os
import re
from pathlib import Path

import pytest
import yaml
from kfp import compiler

from components.common.flows import flow_steps
from components.images import image_of
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


@pytest.fixture(scope="module")
def tasks(pipeline):
    """The steps that the exit step waits for."""
    return pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]


@pytest.fixture(scope="module")
def platforms(compiled, pipeline):
    """What is Kubernetes' own, by the step's component."""
    executors = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(pipeline["deploymentSpec"]["executors"])
    return {name.removeprefix("exec-"): executor for name, executor in executors.items()}


def test_the_compiled_pipeline_is_the_one_in_the_tree(compiled, name):
    golden = GOLDEN / f"{name}.yaml"
    documents = [{key: value for key, value in part.items() if key != "sdkVersion"} for part in compiled]
    if os.environ.get("RLHF_REGENERATE"):
        golden.write_text(yaml.safe_dump_all(documents, sort_keys=True))
    assert list(yaml.safe_load_all(golden.read_text())) == documents


def test_the_steps_follow_one_another_with_a_merge_after_each_stage(tasks, name):
    assert set(tasks) == set(CHAINS[name])

    def ancestors(name):
        direct = tasks[name].get("dependentTasks", [])
        return set(direct).union(*(ancestors(task) for task in direct))

    for before, after in itertools.pairwise(CHAINS[name]):
        assert before in ancestors(after), f"{after} does not wait for {before}"


def test_whatever_becomes_of_the_steps_what_they_left_is_removed(pipeline):
    tasks = pipeline["root"]["dag"]["tasks"]
    assert set(tasks) == {"exit-handler-1", "cleanup"}
    assert tasks["cleanup"]["dependentTasks"] == ["exit-handler-1"]
    assert tasks["cleanup"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def test_every_step_runs_uncached_in_an_image_that_has_what_it_needs(pipeline, tasks):
    images = {
        name: executor["container"]["image"] for name, executor in pipeline["deploymentSpec"]["executors"].items()
    }
    for name, task in {**tasks, "cleanup": pipeline["root"]["dag"]["tasks"]["cleanup"]}.items():
        assert not task.get("cachingOptions"), name
        given = "pipelinechannel--launcher_image" in task["inputs"]["parameters"]
        assert given == (name not in ("prepare", "data")), name
    assert images["exec-prepare"] == image_of("pretrain")
    assert images["exec-data"] == image_of("data")


def test_a_lost_pod_is_made_again(pipeline, tasks):
    for name, task in {**tasks, "cleanup": pipeline["root"]["dag"]["tasks"]["cleanup"]}.items():
        assert task["retryPolicy"]["maxRetryCount"] == 2, name


def test_a_component_is_a_few_lines_and_installs_nothing(pipeline):
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        command = " ".join(executor["container"]["command"])
        assert "pip install" not in command, name
        body = executor["container"]["command"][-1].split('"""')[-1]
        assert len([line for line in body.splitlines() if line.strip()]) <= 5, name


def test_no_step_asks_for_gpus(pipeline):
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        assert set(executor["container"]["resources"]) == {
            *("cpuRequest", "resourceCpuRequest", "memoryRequest", "resourceMemoryRequest")
        }, name


def test_the_flow_of_the_same_name_lists_the_steps(tasks, name):
    constants = tasks["prepare"]["inputs"]["parameters"]["pipeline"]
    assert constants == {"runtimeValue": {"constant": name}}
    names = {task: fields["taskInfo"]["name"].replace(" ", "-") for task, fields in tasks.items()}
    assert [names[task] for task in CHAINS[name]] == list(flow_steps(name))


def test_the_parameters_have_defaults_that_need_no_network(pipeline):
    parameters = pipeline["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"preset", "config", "overrides", "model", "data", "launcher_image", "seed"}
    assert all(parameter["isOptional"] for parameter in parameters.values())
    assert parameters["preset"]["defaultValue"] == "tiny-cpu"
    assert parameters["launcher_image"]["defaultValue"] == image_of("launcher")


def test_every_step_knows_its_run_and_makes_jobs(platforms):
    for stage, executor in platforms.items():
        paths = {env["name"]: env["fieldPath"] for env in executor["fieldPathAsEnv"]}
        assert paths == {
            "RLHF_RUN_ID": "metadata.labels['pipeline/runid']",
            "RLHF_LAUNCHER": "metadata.labels['rlhf-stack/launcher']",
        }
        kind = re.sub(r"-\d+$", "", stage)
        labels = dict(executor["podMetadata"]["labels"])
        step = labels.pop("rlhf-stack/step")
        assert step.startswith("merge-") if kind == "merge" else step == kind
        assert labels == {"rlhf-stack/launcher": "kubernetes"}  # its job's pod alone has the stage


def test_nothing_of_that_reaches_a_laptop(pipeline):
    """kfp.local sets the variables of a step's container, and only those."""
    for executor in pipeline["deploymentSpec"]["executors"].values():
        assert "env" not in executor["container"]


def test_every_step_has_the_store(platforms):
    for executor in platforms.values():
        (config,), (secret,) = executor["configMapAsEnv"], executor["secretAsEnv"]
        assert config["configMapName"] == "rlhf-stack"
        assert secret["secretName"] == "rlhf-store"
        names = {pair["envVar"]: pair["configMapKey"] for pair in config["keyToEnv"]}
        names |= {pair["envVar"]: pair["secretKey"] for pair in secret["keyToEnv"]}
        assert set(names) >= {"RLHF_STORE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID"}
        assert all(name == key for name, key in names.items())


def test_every_step_may_run_where_only_restricted_pods_are_let_in(platforms):
    for executor in platforms.values():
        assert executor["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}
