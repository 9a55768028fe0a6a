"""Whatever ends a stage, the same command goes on, and the result is that of an undisturbed run bit by bit."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from components.common import entry, trainer
from components.rl import fit
from tests.support.interrupted import (
    StageCommand,
    after_step,
    half_written,
    inside_checkpoint,
    same,
    trained_state,
)

STEPS = 12
GRACE = 30  # seconds that Kubernetes gives a pod between SIGTERM and SIGKILL
COMMON = [f"max_steps={STEPS}", "save_steps=3", "logging_steps=1", "num_samples=2"]
SETTINGS = {
    "pretrain": ["lora.lora_dropout=0.1", "per_device_train_batch_size=2"],
    "sft": [
        "lora.lora_dropout=0.1",
        "per_device_train_batch_size=2",
        "num_eval_prompts=4",
        "eval_steps=4",
        "load_best_model_at_end=true",
    ],
    "reward": ["lora.lora_dropout=0.1", "per_device_train_batch_size=16"],
    "dpo": ["per_device_train_batch_size=16", "num_eval_prompts=4", "eval_steps=5"],
    "rl": ["num_ppo_epochs=1", "num_eval_prompts=8", "target_kl=0.1"],
}


def command(toy_run, stage: str) -> StageCommand:
    """The stage as the toy run ran it, but short."""
    inputs = [f"{name}={toy_run.store / parent.uri}" for name, parent in toy_run.manifest(stage).parents.items()]
    arguments = ["--config", str(toy_run.config)]
    arguments += [part for given in inputs for part in ("--input", given)]
    arguments += [part for setting in COMMON + SETTINGS[stage] for part in ("--set", f"{stage}.{setting}")]
    return StageCommand(stage, arguments)


@pytest.fixture
def finish(monkeypatch):
    """Runs a command to its end in this process, and leaves its checkpoints for us to look at."""
    monkeypatch.setattr(entry, "_clear_checkpoints", lambda work: None)
    monkeypatch.setenv("RLHF_RUN_ID", "last")

    def run(wanted: StageCommand, store: Path) -> dict:
        config = importlib.import_module(f"components.{wanted.stage}.config")
        stage = importlib.import_module(f"components.{wanted.stage}.stage")
        assert entry.stage_main(config.SPEC, lambda: stage.run, [*wanted.arguments, "--output", str(store)]) == 0
        return trained_state(store)

    return run


@pytest.mark.parametrize("stage", SETTINGS)
def test_stopped_then_killed(run_of, tmp_path, stage, finish, capfd):
    stage_command = command(run_of(stage), stage)
    undisturbed = finish(stage_command, tmp_path / "undisturbed")
    assert undisturbed["step"] == f"step-{STEPS:08d}"

    store = tmp_path / "disturbed"
    stopped = stage_command.run(store, after_step(2), signal.SIGTERM)
    assert stopped.code == 75, stopped.output
    assert stopped.seconds < GRACE
    assert list(store.glob("work/*/*/*/checkpoints/step-*/manifest.json"))
    assert "was told to stop after step" in stopped.output
    assert "run the same command again" in stopped.output
    killed = stage_command.run(store, after_step(7), signal.SIGKILL)
    assert killed.code == -signal.SIGKILL, killed.output
    assert "goes on after step" in killed.output
    assert not list(store.glob("artifacts/*/*/manifest.json"))
    capfd.readouterr()
    assert same(finish(stage_command, store), undisturbed)
    assert "goes on after step" in capfd.readouterr().out


def test_merged_rollouts_are_made_again_and_scored_by_the_policy_itself(toy_run, tmp_path, finish):
    plain = command(toy_run, "rl")
    more = ["merged_rollout=true", "num_mini_batches=1", "max_steps=6"]
    merged = StageCommand("rl", [*plain.arguments, *(part for s in more for part in ("--set", f"rl.{s}"))])
    undisturbed = finish(merged, tmp_path / "undisturbed")
    steps = [json.loads(line) for line in undisturbed["metrics.jsonl"].splitlines()]
    assert len(steps) == 6
    assert steps[0]["kl"] == steps[0]["kl_k3"] == 0
    assert all(step["kl"] != 0 for step in steps[2:])  # the first step's learning rate is zero, as it warms up
    # One update a batch: its ratios are those of the policy to itself, whatever it was folded into when it wrote.
    assert all(step["approx_kl"] == step["clipped"] == 0 for step in steps)

    store = tmp_path / "disturbed"
    killed = merged.run(store, after_step(4), signal.SIGKILL)
    assert killed.code == -signal.SIGKILL, killed.output
    assert same(finish(merged, store), undisturbed)


def test_killed_inside_a_checkpoint(run_of, tmp_path, finish):
    stage_command = command(run_of("sft"), "sft")
    undisturbed = finish(stage_command, tmp_path / "undisturbed")
    for attempt in range(5):  # a checkpoint may be whole before the signal is there
        store = tmp_path / f"disturbed{attempt}"
        killed = stage_command.run(store, inside_checkpoint, signal.SIGKILL)
        assert killed.code == -signal.SIGKILL, killed.output
        if half_written(store):
            break
    assert half_written(store), "no kill came while a checkpoint was half written"
    assert same(finish(stage_command, store), undisturbed)


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_killed_between_training_and_result(run_of, tmp_path, stage, finish):
    stage_command = command(run_of(stage), stage)
    undisturbed = finish(stage_command, tmp_path)
    shutil.rmtree(tmp_path / "artifacts")
    assert same(finish(stage_command, tmp_path), undisturbed)


def test_an_altered_checkpoint_is_passed_over(run_of, tmp_path, finish, capfd):
    stage_command = command(run_of("reward"), "reward")
    undisturbed = finish(stage_command, tmp_path / "undisturbed")
    store = tmp_path / "disturbed"
    stage_command.run(store, after_step(7), signal.SIGKILL)
    *_, newest = sorted(store.glob("work/*/*/*/checkpoints/step-*"))
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    capfd.readouterr()
    assert same(finish(stage_command, store), undisturbed)
    printed = capfd.readouterr().out
    assert f"checkpoint {newest} is passed over: adapter_model.safetensors is altered" in printed
    assert "goes on after step 3" in printed


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("stage", SETTINGS)
def test_ended_ten_times(run_of, tmp_path, stage, number, finish):
    stage_command = command(run_of(stage), stage)
    undisturbed = finish(stage_command, tmp_path / "undisturbed")
    draw = random.Random(f"{stage}{number}")
    for attempt in range(10):
        store = tmp_path / str(attempt)
        step = 0 if attempt == 0 else draw.randrange(1, STEPS)
        condition = inside_checkpoint if attempt == 1 else after_step(step)
        ended = stage_command.run(store, condition, number)
        assert ended.code == (75 if number == signal.SIGTERM else -number), (step, ended.output)
        assert number != signal.SIGTERM or ended.seconds < GRACE
        assert same(finish(stage_command, store), undisturbed), step


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_trying_how_much_fits_changes_nothing(run_of, tmp_path, stage, finish, monkeypatch):
    """What a GPU does before training: gradients of the longest rows, then all is as if that had not been."""
    stage_command = command(run_of(stage), stage)
    undisturbed = finish(stage_command, tmp_path / "undisturbed")
    user = importlib.import_module("components.common.packed" if stage == "sft" else f"components.{stage}.stage")
    seen: list[int] = []

    def try_then_run(training):
        trainer.try_longest(training, 3)
        seen.append(int(training.lengths.max()))
        trainer.run_trainer(training)

    monkeypatch.setattr(user, "run_trainer", try_then_run)
    assert same(finish(stage_command, tmp_path / "tried"), undisturbed)
    assert seen


def test_trying_how_many_completions_fit_changes_nothing(toy_run, tmp_path, finish, monkeypatch):
    stage_command = command(toy_run, "rl")
    undisturbed = finish(stage_command, tmp_path / "undisturbed")
    sizes, find = [], fit.fitting_sizes

    def noted(*arguments):
        sizes.append(find(*arguments))
        return sizes[-1]

    monkeypatch.setattr(fit, "_is_limited", lambda device: True)
    monkeypatch.setattr(fit, "fitting_sizes", noted)
    assert same(finish(stage_command, tmp_path / "tried"), undisturbed)
    assert sizes == [{"per_device_train_batch_size": 16, "eval_tokens": 16384}]
