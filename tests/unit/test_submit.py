"""`kfp run submit pipelines/rlhf.py` against a stub of the API server."""

import json
import socket

import pytest
import yaml

from components.common.errors import RetryableError, UserError
from pipelines.cli import submit
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
    assert "kubectl logs -f -l pipeline/runid=r1,rlhf-stack/step" in result.stdout
    assert "#/runs" not in result.stdout
    assert run["service_account"] == "rlhf-launcher"


@pytest.mark.parametrize("wait", [[], ["-w"]])
def test_kfps_global_options_are_taken_before_run_submit(server, wait):
    options = ["--output", "json", "--existing-token", "let-me-in", "--endpoint", server.url, "-n", "models"]
    result = kfp(*options, "run", "submit", *wait, "-r", "mine", "pipelines/rlhf.py")
    assert result.returncode == 0, result.stderr
    run = {"run_id": "r1", "name": "mine", "experiment": "rlhf", "namespace": "models", "link": ""}
    assert json.loads(result.stdout) == run
    assert "follow it: kubectl logs -n models" in result.stderr
    assert ("SUCCEEDED" in result.stderr) is bool(wait)
    assert [token.split()[-1] for token in server.tokens] == ["let-me-in"]


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
    (tmp_path / "p.yaml").write_text("model: {source: scratch}\n")
    files = [f"config={tmp_path / 'c.yaml'}", f"preset={tmp_path / 'p.yaml'}"]
    result = rlhf("submit", "--endpoint", server.url, *files)
    assert result.returncode == 0, result.stderr
    sent = server.runs[0]["runtime_config"]["parameters"]
    assert yaml.safe_load(sent["config"]) == {"sft": {"max_steps": 3}}
    assert yaml.safe_load(sent["preset"]) == {"model": {"source": "scratch"}}


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("data=FOLDER", "data.sft.sources[0]: FOLDER/sft.jsonl is on this machine, where pods cannot read it"),
        (
            "model=FOLDER",
            "model: FOLDER is on this machine, where pods cannot read it; `rlhf put --on kubernetes FOLDER`",
        ),
        ("data=FOLDER/none", "FOLDER/none: no such folder, or it is empty"),
    ],
)
def test_a_model_or_data_that_no_pod_can_read_is_not_sent(server, tmp_path, argument, words):
    (tmp_path / "sft.jsonl").write_text("{}\n")
    result = rlhf("submit", "--endpoint", server.url, argument.replace("FOLDER", str(tmp_path)))
    assert result.returncode == 2
    assert words.replace("FOLDER", str(tmp_path)) in result.stderr
    assert not server.runs


def test_what_is_in_a_bucket_is_left_to_the_run(server):
    arguments = ["preset=t4x4-1b", "model=s3://b/artifacts/upload/m", "data=s3://b/d"]
    result = rlhf("submit", "--endpoint", server.url, *arguments)
    assert result.returncode == 0, result.stderr
    assert server.runs[0]["runtime_config"]["parameters"] == dict(pair.split("=") for pair in arguments)


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


def test_an_api_server_that_is_away_for_a_while_does_not_end_the_waiting(server):
    server.states = ["RUNNING", 503, 503, 0, "SUCCEEDED"]
    result = kfp("run", "submit", "-w", "--endpoint", server.url, "pipelines/rlhf.py")
    assert result.returncode == 0, result.stderr
    said = [line.split(" ", 1)[1] for line in result.stdout.splitlines() if line[2:3] == ":"]
    assert said[0] == "RUNNING"
    assert "the API server failed: 503 away" in said[1]
    assert "trying for 300 s more" in said[1]
    assert said[2:] == ["it answers again", "SUCCEEDED"]


class AwayError(Exception):
    """What kfp's client raises."""

    def __init__(self, status):
        self.status, self.reason = status, "oh"


@pytest.mark.parametrize(("status", "kind"), [(503, RetryableError), (404, UserError)])
def test_one_that_stays_away_or_refuses_does(monkeypatch, status, kind):
    monkeypatch.setattr(submit, "AWAY_SECONDS", 0.3)
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.1)
    asked = []

    class Client:
        def get_run(self, run_id):
            asked.append(run_id)
            raise AwayError(status)

    with pytest.raises(kind):
        submit._wait(Client(), "r1", None)
    assert len(asked) == 1 if status == 404 else len(asked) > 1


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
