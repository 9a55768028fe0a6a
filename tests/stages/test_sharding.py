"""Stages whose model is split between two processes (FSDP2): all parameters, exact resume.

That they learn what one process learns is in test_processes.py.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.stages.test_processes import inputs, train
from tests.support.commands import python
from tests.support.interrupted import StageCommand, after_step

FSDP2 = "sharding=fsdp2"


def apart(one: Path, other: Path, file: str) -> float:
    """The largest difference between the weights of two artifacts."""
    weights = [load_file(artifact / file) for artifact in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert tensor.dtype == weights[1][name].dtype
        assert tensor.shape == weights[1][name].shape
    return max((tensor - weights[1][name]).abs().max().item() for name, tensor in weights[0].items())


@pytest.mark.long
def test_all_parameters_are_trained_and_saved_whole(toy_run, tmp_path):
    settings = ("lora=null", "learning_rate=1e-4", "activation_checkpointing=true")
    one = train(toy_run, "sft", tmp_path / "1", 1, *settings)
    split = train(toy_run, "sft", tmp_path / "2", 2, *settings, FSDP2)
    assert apart(one, split, "model.safetensors") < 1e-5
    fields = [json.loads((artifact / "config.json").read_text()) for artifact in (one, split)]
    assert fields[0] == fields[1]


def command(toy_run, stage: str, *settings: str) -> StageCommand:
    """A short run on two processes that writes a checkpoint every three steps."""
    common = ["max_steps=12", "save_steps=3", "logging_steps=1", "num_samples=2", "train_batch_size=4", FSDP2]
    arguments = [part for setting in (*common, *settings) for part in ("--set", f"{stage}.{setting}")]
    return StageCommand(stage, [*inputs(toy_run, stage), *arguments, "--nproc", "2"])


def last_rank(pid: int) -> int:
    """One of the processes that a command has started torchrun for."""
    return max(child.pid for child in psutil.Process(pid).children(recursive=True))


def result(store: Path) -> dict[str, bytes]:
    """Bytes of weights and curves."""
    (artifact,) = (path.parent for path in store.glob("artifacts/*/*/manifest.json"))
    return {p.name: p.read_bytes() for p in artifact.iterdir() if p.suffix in (".safetensors", ".jsonl")}


def test_a_process_killed(toy_run, tmp_path):
    """Of one that trains all parameters: weights and optimizer state are split as well."""
    wanted = command(toy_run, "sft", "lora=null", "learning_rate=1e-3", "num_eval_prompts=2")
    assert wanted.run(tmp_path / "undisturbed").code == 0
    store = tmp_path / "disturbed"
    killed = wanted.run(store, after_step(5), signal.SIGKILL, whom=last_rank)
    assert killed.code == 75, killed.output
    check_finishes(wanted, store, tmp_path / "undisturbed")


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("pretrain", []),
        ("sft", ["lora.lora_dropout=0.1", "num_eval_prompts=2", "eval_steps=4", "load_best_model_at_end=true"]),
        ("reward", ["lora.lora_dropout=0.1", "per_device_train_batch_size=2"]),
        ("dpo", ["num_eval_prompts=2", "per_device_train_batch_size=2"]),
    ],
)
def test_stopped_then_a_process_killed(run_of, tmp_path, stage, settings):
    wanted = command(run_of(stage), stage, *settings)
    assert wanted.run(tmp_path / "undisturbed").code == 0
    store = tmp_path / "disturbed"
    stopped = wanted.run(store, after_step(2), signal.SIGTERM)
    assert stopped.code == 75, stopped.output
    assert stopped.output.splitlines()[-1].startswith(f"error: {stage}: was told to stop after step ")
    assert "Traceback" not in stopped.output
    killed = wanted.run(store, after_step(7), signal.SIGKILL, whom=last_rank)
    assert killed.code == 75, killed.output
    assert "goes on after step" in killed.output
    check_finishes(wanted, store, tmp_path / "undisturbed")


def check_finishes(wanted: StageCommand, store: Path, undisturbed: Path) -> None:
    """Runs a command that was interrupted to its end: the result is that of a run that was not."""
    finished = wanted.run(store)
    assert finished.code == 0, finished.output
    assert "goes on after step" in finished.output
    assert result(store) == result(undisturbed)


@pytest.mark.long
def test_a_checkpoint_serves_with_and_without_sharding(toy_run, tmp_path):
    split = command(toy_run, "sft", "num_eval_prompts=2", "learning_rate=1e-3")
    whole = StageCommand("sft", [a.replace(FSDP2, "sharding=none") for a in split.arguments])
    assert whole.run(tmp_path / "whole").code == 0
    for name, first, second in (("to", whole, split), ("from", split, whole)):
        store = tmp_path / name
        assert first.run(store, after_step(4), signal.SIGTERM).code == 75
        resumed = second.run(store)
        assert resumed.code == 0, resumed.output
        assert "goes on after step" in resumed.output
        (one,), (other,) = (list(s.glob("artifacts/sft/*")) for s in (tmp_path / "whole", store))
        assert apart(one, other, "adapter_model.safetensors") < 1e-5


def test_one_process_is_too_few(toy_run, tmp_path):
    arguments = ["--output", str(tmp_path), "--set", f"sft.{FSDP2}"]
    refused = python("-m", "components.sft", *inputs(toy_run, "sft"), *arguments)
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("error: sft.sharding=fsdp2: ")
    assert not list(tmp_path.rglob("manifest.json"))
