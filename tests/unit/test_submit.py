"""`kfp run submit pipelines/rlhf.py` against a stub of the API server."""

import socket

import pytest
import yaml

from tests.support import pipelines
from tests.support.commands import kfp, rlhf
from tests.support.kfp_server import kfp_server


@pytest.fixture
def server():
    with kfp_server() as running:
        yield running


def test_the_pipeline_is_compiled_and_started_with_its_parameters(server):
    result = kfp("--endpoint", server.url, "run", "submit", "pipelines/rlhf.py", "seed=3", "sft.learning_rate=1e-4")
    assert result.returncode == 0, result.stderr
    (run,) = server.runs
    assert run["runtime_config"]["parameters"] == {"seed": 3, "overrides": "sft.learning_rate=1e-4"}
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "rlhf"
    assert "run r1" in result.stdout
    assert "kubectl logs -f -l pipeline/runid=r1,rlhf-stack/stage" in result.stdout
    assert "#/runs" not in result.stdout
    assert run["service_account"] == "rlhf-launcher"


def test_the_other_pipeline_is_submitted_by_its_file(server):
    result = kfp("run", "submit", "--endpoint", server.url, "pipelines/dpo.py", "dpo.beta=0.2")
    assert result.returncode == 0, result.stderr
    (run,) = server.runs
    assert run["runtime_config"]["parameters"] == {"overrides": "dpo.beta=0.2"}
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "dpo"


def test_a_setting_that_the_pipeline_would_ignore_is_not_sent(server):
    result = kfp("run", "submit", "--endpoint", server.url, "pipelines/dpo.py", "rl.beta=0.2")
    assert result.returncode == 2
    assert "the pipeline dpo has no stage rl" in result.stderr
    assert not server.runs


def test_a_local_configuration_is_sent_as_text(server, tmp_path):
    (tmp_path / "c.yaml").write_text("sft: {max_steps: 3}\n")
    result = rlhf("submit", "--endpoint", server.url, f"config={tmp_path / 'c.yaml'}")
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(server.runs[0]["runtime_config"]["parameters"]["config"]) == {"sft": {"max_steps": 3}}


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([None, "PENDING", "RUNNING", "SUCCEEDED"], 0),
        (["RUNNING", "FAILED"], 1),
        (["RUNNING", "CANCELING", "CANCELED"], 1),
        (["RUNNING", "CANCELING", "FAILED"], 1),
    ],
)
def test_waiting_ends_with_the_runs_state(server, states, code):
    server.states = states
    result = kfp("run", "submit", "-w", "--endpoint", server.url, "pipelines/rlhf.py")
    assert result.returncode == code, result.stderr
    shown = [line.split()[1] for line in result.stdout.splitlines() if line[2:3] == ":"]
    assert shown[-1] == ("CANCELED" if "CANCELING" in states else states[-1])
    assert shown[0] == states[0] or states[0] is None
    assert "None" not in shown


def test_waiting_outlives_an_api_server_that_restarts(server):
    server.outages = [503, 500]
    result = kfp("run", "submit", "-w", "--endpoint", server.url, "pipelines/rlhf.py")
    assert result.returncode == 0, result.stderr
    assert not server.outages
    assert result.stdout.rstrip().endswith("SUCCEEDED")


def test_waiting_for_a_run_that_is_gone_ends(server):
    server.outages = [404] * 10
    result = kfp("run", "submit", "-w", "--endpoint", server.url, "pipelines/rlhf.py")
    assert result.returncode == 2
    assert "the API server refused: 404" in result.stderr


def test_a_preset_of_ones_own_is_sent_as_text(server, tmp_path):
    (tmp_path / "mine.yaml").write_text("sft: {max_steps: 3}\n")
    result = rlhf("submit", "--endpoint", server.url, f"preset={tmp_path / 'mine.yaml'}")
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(server.runs[0]["runtime_config"]["parameters"]["preset"]) == {"sft": {"max_steps": 3}}


@pytest.mark.parametrize("given", ["option", "context", "only one"])
def test_the_run_goes_through_the_clusters_own_api_to_the_right_namespace(server, tmp_path, given):
    settings = {"RLHF_REGISTRY": "mirror.example/rlhf", "RLHF_VERSION": "7", "RLHF_UI_URL": "https://kfp.example/"}
    server.homes = {"models": settings, **({} if given == "only one" else {"other": {}})}
    config = server.kubeconfig(tmp_path, {"context": "models", "option": "other"}.get(given, ""))
    option = ["-n", "models"] if given == "option" else []
    result = kfp("run", "submit", *option, "pipelines/rlhf.py", KUBECONFIG=config)
    assert result.returncode == 0, result.stderr
    (path,) = server.paths
    assert path.replace("//", "/") == "/api/v1/namespaces/models/services/ml-pipeline:http/proxy/apis/v2beta1/runs"
    assert "kubectl logs -n models -f" in result.stdout
    assert "https://kfp.example/#/runs/details/r1" in result.stdout
    spec = server.runs[0]["pipeline_spec"]["pipeline_spec"]
    executors = spec["deploymentSpec"]["executors"]
    assert executors["exec-prepare"]["container"]["image"] == "mirror.example/rlhf/pretrain:7"
    assert executors["exec-data"]["container"]["image"] == "mirror.example/rlhf/data:7"
    launcher = spec["root"]["inputDefinitions"]["parameters"]["launcher_image"]
    assert launcher["defaultValue"] == "mirror.example/rlhf/launcher:7"


@pytest.mark.parametrize(
    ("homes", "words"), [({}, "no namespace has the Service ml-pipeline"), ({"a": {}, "b": {}}, "say which with -n")]
)
def test_a_namespace_that_is_not_clear_is_asked_for(server, tmp_path, homes, words):
    server.homes = homes
    result = rlhf("submit", KUBECONFIG=server.kubeconfig(tmp_path))
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_a_cluster_that_is_said(tmp_path):
    result = rlhf("submit", KUBECONFIG=str(tmp_path / "none"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: kubeconfig: no cluster is known")


def test_a_pipeline_of_somebody_else_keeps_its_account(server, tmp_path):
    file = pipelines.write(tmp_path, pipelines.SLEEPING)
    result = kfp("run", "submit", "--endpoint", server.url, str(file))
    assert result.returncode == 0, result.stderr
    assert not server.runs[0].get("service_account")


def test_a_refusal_is_told_in_one_line(server):
    server.refuse = 403
    result = kfp("run", "submit", "--endpoint", server.url, "pipelines/rlhf.py")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "403" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_failure_of_the_server_is_told_in_its_own_words(server):
    server.refuse = 500
    result = rlhf("submit", "--endpoint", server.url)
    assert result.returncode == 75
    assert f"{server.url}: the API server failed: 500 the quota is used up; see its log" in result.stderr


def test_no_server_is_told_in_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    result = kfp("run", "submit", "--endpoint", url, "pipelines/rlhf.py")
    assert result.returncode == 75
    assert "no answer from Kubeflow Pipelines" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_pipeline_file_with_an_error_is_not_sent(server, tmp_path):
    file = pipelines.write(tmp_path, "from kfp import dsl\n\nraise ValueError('oh')\n")
    result = kfp("run", "submit", "--endpoint", server.url, str(file))
    assert result.returncode == 2
    assert "pipeline.py line 3: ValueError: oh" in result.stderr
    assert server.runs == []


def test_a_wrong_parameter_is_not_sent(server):
    result = kfp("run", "submit", "--endpoint", server.url, "pipelines/rlhf.py", "sead=1")
    assert result.returncode == 2
    assert server.runs == []
