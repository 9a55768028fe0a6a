"""Going on from a saved adapter: from where it was left, on its own base only, and as part of the result's key."""

import json

import pytest

from components.launcher.record import Run
from tests.stages.conftest import TOY
from tests.support.commands import python, rlhf

BASES = {"pretrain": "prepare", "sft": "merge-pretrain", "reward": "merge-sft"}


def train(toy_run, stage, out, *arguments, base=None, adapter=None):
    given = ["--config", str(toy_run.config), "--output", str(out), "--set", f"{stage}.max_steps=2"]
    given += ["--input", f"model={toy_run.folder(base or BASES[stage])}"]
    given += ["--input", f"dataset={toy_run.dataset(stage)}"]
    given += ["--input", f"adapter={toy_run.folder(adapter or stage)}"]
    return python("-m", f"components.{stage}", *given, *arguments)


@pytest.mark.parametrize("stage", BASES)
def test_training_goes_on_where_the_adapter_was_left(toy_run, tmp_path, stage):
    result = train(toy_run, stage, tmp_path, "--set", f"{stage}.learning_rate=1e-6")
    assert result.returncode == 0, result.stderr
    assert "goes on from" in result.stdout
    (path,) = tmp_path.glob("artifacts/*/*/manifest.json")
    manifest = json.loads(path.read_text())
    left = toy_run.metrics(stage)["after"]["loss"]
    assert manifest["metrics"]["before"]["loss"] == pytest.approx(left, rel=1e-5)
    assert manifest["metrics"]["after"]["loss"] == pytest.approx(left, rel=1e-2)
    assert manifest["parents"]["adapter"]["digest"] == toy_run.manifest(stage).digest


def test_the_adapter_must_stand_on_the_stages_own_model(toy_run, tmp_path):
    result = train(toy_run, "sft", tmp_path, adapter="pretrain")
    assert result.returncode == 3
    assert "was trained on" in result.stderr
    assert not list(tmp_path.glob("artifacts/*"))


def test_a_reward_stage_needs_an_adapter_with_a_head(toy_run, tmp_path):
    result = train(toy_run, "reward", tmp_path, base="merge-pretrain", adapter="sft")
    assert result.returncode == 3
    assert "has no score head" in result.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrain.lora=null", "adapter: none is trained with lora: null"),
        ("pretrain.adapter=/nowhere", "neither an artifact nor a folder"),
    ],
)
def test_what_cannot_go_on_is_refused_before_anything_is_trained(toy_run, tmp_path, override, words):
    adapter = f"pretrain.adapter={toy_run.folder('pretrain')}"
    result = rlhf("run", "--preset", TOY, "--store", str(tmp_path / "store"), adapter, override)
    assert result.returncode in (2, 3)
    assert words in result.stderr
    assert not list(tmp_path.glob("store/artifacts/pretrain/*"))


def test_a_pipeline_goes_on_from_the_adapter_of_another_run(toy_run):
    off = [f"{stage}.enabled=false" for stage in ("sft", "reward", "rl", "evaluate")]
    adapter = toy_run.folder("pretrain")
    arguments = ["--preset", TOY, "--store", str(toy_run.store), "--run-id", "further"]
    result = rlhf("run", *arguments, f"pretrain.adapter={adapter}", "pretrain.max_steps=4", *off)
    assert result.returncode == 0, result.stdout + result.stderr
    step = Run.of_config(f"{toy_run.store}/runs/further/config.yaml").step("pretrain")
    metrics = json.loads((toy_run.store / step.uri / "manifest.json").read_text())["metrics"]
    assert metrics["before"]["loss"] == pytest.approx(toy_run.metrics("pretrain")["after"]["loss"], rel=1e-5)
