"""`python -m components.launcher`: what is missing is said in one line, and a job can be printed before it is made."""

import json

import pytest
import yaml

from components.common.manifest import Manifest, list_files
from components.launcher.__main__ import main
from components.prepare.resolve import Request, resolve


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("RLHF_STORE", "RLHF_NAMESPACE", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_LAUNCHER", "local")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cancel", "r1"], "RLHF_STORE: is not set"),
        (["run", "merge", "--config", "s/runs/r/config.yaml", "--input", "base=x"], "--input adapter: is missing"),
        (["run", "data", "--config", "s/runs/r/config.yaml"], "--input model: is missing"),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["run", "stf"], ["print", "prepare"]])
def test_a_stage_that_is_none_is_refused_with_those_there_are(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--config", "s/runs/r/config.yaml"])
    assert stopped.value.code == 2
    assert "choose from" in capsys.readouterr().err


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with a run's configuration, a base model and a dataset, as far as planning looks at them."""
    for name, value in {"RLHF_LAUNCHER": "kubernetes", "RLHF_CPU_STEPS": "job", "RLHF_IMAGE": "example/all:1"}.items():
        monkeypatch.setenv(name, value)
    root, data = tmp_path / "store", tmp_path / "data"
    data.mkdir()
    (data / "sft.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    settings = "launcher.gpus_per_node=2\nlauncher.nodes=3\nlauncher.resources={sft: {memory: 20Gi}}\n"
    off = "\n".join(f"{stage}.enabled=false" for stage in ("pretrain", "reward", "rl", "evaluate"))
    config = resolve(Request("tiny-cpu", data=str(data), overrides=settings + off)).model_dump(mode="json")
    (root / "runs/r1").mkdir(parents=True)
    (root / "runs/r1/config.yaml").write_text(yaml.safe_dump(config))
    for stage, kind in (("base", "model"), ("data-sft", "dataset")):
        folder = root / "artifacts" / stage / "made"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        manifest = Manifest(kind=kind, stage=stage, key="made", files=list_files(folder))
        (folder / "manifest.json").write_bytes(manifest.canonical())
    return root


def printed(store, capsys, *arguments):
    """The object that a command prints, after which nothing is in the store that was not before."""
    before = sorted(store.rglob("*"))
    command, stage, *rest = arguments
    assert main([command, stage, "--config", f"{store}/runs/r1/config.yaml", *rest]) == 0
    assert sorted(store.rglob("*")) == before
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("command", [["print", "sft"], ["run", "sft", "--dry-run"]])
def test_a_training_job_is_printed_as_the_cluster_would_be_given_it(store, capsys, command):
    inputs = {"model": f"{store}/artifacts/base/made", "dataset": f"{store}/artifacts/data-sft/made"}
    given = [word for name, uri in inputs.items() for word in ("--input", f"{name}={uri}")]
    made = printed(store, capsys, *command, *given)
    assert (made["kind"], made["spec"]["nprocPerNode"]) == ("PyTorchJob", "2")
    assert {role: spec["replicas"] for role, spec in made["spec"]["pytorchReplicaSpecs"].items()} == {
        "Master": 1,
        "Worker": 2,
    }
    (container,) = made["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "20Gi", "nvidia.com/gpu": "2"}
    assert container["image"] == "example/all:1"
    command = container["command"]
    key = made["metadata"]["labels"]["rlhf-stack/key"]
    assert f"{store}/artifacts/sft/{key}" in command
    assert {f"{name}={uri}" for name, uri in inputs.items()} <= set(command)


@pytest.mark.parametrize("command", [["print"], ["run", "--dry-run"]])
def test_steps_that_are_no_stage_are_printed_too(store, capsys, command):
    name, *flags = command
    made = printed(store, capsys, name, "data", *flags, "--input", f"model={store}/artifacts/base/made")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert made["kind"] == "Job"
    assert [word for word in container["command"] if word.startswith("--task=")] == ["--task=sft"]
    assert f"model={store}/artifacts/base/made" in container["command"]
    made = printed(store, capsys, name, "report", *flags)
    assert made["metadata"]["labels"]["rlhf-stack/run"] == "r1"
    assert "components.report" in json.dumps(made)
    assert main([name, "data", *flags, "--config", f"{store}/runs/r1/config.yaml"]) == 2
    assert "--input model: is missing" in capsys.readouterr().err
