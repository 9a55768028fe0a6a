"""Two processes give what one gives: the same curves and weights, one writer; also with the model split among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.commands import python

STEPS = 20
SETTINGS = {
    "pretrain": ["train_batch_size=4", "per_device_train_batch_size=1", "learning_rate=1e-3"],
    "sft": ["train_batch_size=4", "per_device_train_batch_size=1", "learning_rate=1e-3", "num_eval_prompts=8"],
    "reward": ["train_batch_size=8", "per_device_train_batch_size=4", "learning_rate=1e-3"],
    "rl": ["rollout_batch_size=8", "num_ppo_epochs=1", "learning_rate=1e-4", "critic_learning_rate=1e-4"],
    "dpo": ["train_batch_size=8", "per_device_train_batch_size=4", "learning_rate=1e-3", "num_eval_prompts=8"],
}


def inputs(toy_run, stage: str) -> list[str]:
    """The stage's inputs in the toy run, as arguments."""
    found = {name: toy_run.store / parent.uri for name, parent in toy_run.manifest(stage).parents.items()}
    return ["--config", str(toy_run.config), *(part for n, uri in found.items() for part in ("--input", f"{n}={uri}"))]


def train(toy_run, stage: str, store: Path, processes: int, *more: str) -> Path:
    """Folder of a short run's artifact."""
    settings = [f"max_steps={STEPS}", "num_samples=2", *SETTINGS[stage], *more]
    arguments = [part for setting in settings for part in ("--set", f"{stage}.{setting}")]
    arguments += ["--output", str(store), "--nproc", str(processes)]
    result = python("-m", f"components.{stage}", *inputs(toy_run, stage), *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"{stage} finished: ") == 1
    assert list((store / ".scratch").iterdir()) == []
    (artifact,) = (store / "artifacts" / stage).iterdir()
    return artifact


def curves(artifact: Path) -> list[dict[str, float]]:
    """What the stage noted of each step."""
    return [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]


def measured(artifact: Path) -> dict[str, float]:
    """What the stage measured on held-out data, before and after."""
    metrics = json.loads((artifact / "manifest.json").read_bytes())["metrics"]
    return {f"{when} {name}": value for when in ("before", "after") for name, value in metrics[when].items()}


def close(one: Path, others: list[Path], loss: str) -> None:
    """Asserts that curves and weights are one process's."""
    weights = load_file(one / "adapter_model.safetensors")
    for other in others:
        for alone, shared in zip(curves(one), curves(other), strict=True):
            assert shared[loss] == pytest.approx(alone[loss], abs=1e-5)
        found = load_file(other / "adapter_model.safetensors")
        assert found.keys() == weights.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage", SETTINGS)
def test_neither_curves_nor_weights_depend_on_the_number_of_processes(run_of, tmp_path, stage):
    run = run_of(stage)
    one = train(run, stage, tmp_path / "one", 1)
    others = [train(run, stage, tmp_path / "two", 2)]
    if stage != "rl":
        split = train(run, stage, tmp_path / "split", 2, "sharding=fsdp2")
        assert split.name == one.name  # one key: the same result
        assert measured(split) == pytest.approx(measured(one), rel=1e-4, abs=1e-4)
        others.append(split)
    close(one, others, "value_loss" if stage == "rl" else "loss")
    assert len(curves(one)) == STEPS


def test_processes_agree_that_write_with_the_adapter_folded_in(toy_run, tmp_path):
    more = ["merged_rollout=true", "max_steps=8", "num_eval_prompts=8"]
    one, two = (train(toy_run, "rl", tmp_path / str(processes), processes, *more) for processes in (1, 2))
    assert len(curves(one)) == 8
    close(one, [two], "value_loss")
    assert measured(two) == pytest.approx(measured(one), rel=1e-4, abs=1e-4)


def test_an_error_on_a_rank_is_told_once_with_its_own_exit_code(toy_run, tmp_path):
    arguments = ["--output", str(tmp_path), "--nproc", "2", "--set", "sft.train_batch_size=7"]
    result = python("-m", "components.sft", *inputs(toy_run, "sft"), *arguments)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: train_batch_size 7 cannot be shared by 2 processes")
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [last]
    assert not list(tmp_path.rglob("manifest.json"))
