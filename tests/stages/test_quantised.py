"""QLoRA: adapters learn on a base in 4 bits, and merge into the whole one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.common.device import device_policy
from components.common.models import load_causal_lm
from tests.stages.conftest import ToyRun
from tests.support.commands import python


def run(toy_run: ToyRun, stage: str, store: Path, *settings: str) -> tuple[Path, dict]:
    """Runs a stage as the toy run did, on a base in 4 bits; its artifact and what it measured."""
    given = {name: toy_run.store / parent.uri for name, parent in toy_run.manifest(stage).parents.items()}
    arguments = ["--config", str(toy_run.config), "--output", str(store), "--set", f"{stage}.load_in_4bit=true"]
    arguments += [part for name, uri in given.items() for part in ("--input", f"{name}={uri}")]
    arguments += [part for setting in settings for part in ("--set", f"{stage}.{setting}")]
    result = python("-m", f"components.{stage}", *arguments)
    assert result.returncode == 0, result.stderr
    (artifact,) = (store / "artifacts" / stage).iterdir()
    return artifact, json.loads((artifact / "manifest.json").read_text())["metrics"]


def test_fine_tuning_learns_and_merges_into_the_whole_base(toy_run, tmp_path):
    adapter, metrics = run(toy_run, "sft", tmp_path)
    assert metrics["after"]["loss"] < 0.5 * metrics["before"]["loss"]
    # TRL would train adapters in bfloat16 here.
    assert {tensor.dtype for tensor in load_file(adapter / "adapter_model.safetensors").values()} == {torch.float32}
    base = toy_run.store / toy_run.manifest("sft").parents["model"].uri
    whole = ["--config", str(toy_run.config), "--output", str(tmp_path)]
    merged = python("-m", "components.merge", *whole, "--input", f"base={base}", "--input", f"adapter={adapter}")
    assert merged.returncode == 0, merged.stderr


def test_the_reward_model_learns_and_is_known_again_in_the_whole_base(toy_run, tmp_path):
    adapter, metrics = run(toy_run, "reward", tmp_path)
    assert metrics["after"]["accuracy"] > 0.8
    given = {name: toy_run.store / p.uri for name, p in toy_run.manifest("rl").parents.items()} | {"reward": adapter}
    arguments = ["--config", str(toy_run.config), "--output", str(tmp_path), "--set", "rl.max_steps=1"]
    arguments += [part for name, uri in given.items() for part in ("--input", f"{name}={uri}")]
    result = python("-m", "components.rl", *arguments)
    assert result.returncode == 0, result.stderr


def test_a_base_in_4_bits_hands_on_gradients_after_an_evaluation(toy_run, monkeypatch):
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)  # as on newer CPUs
    base = toy_run.store / toy_run.manifest("sft").parents["model"].uri
    model = load_causal_lm(base, device_policy(), load_in_4bit=True).train()
    words = model.get_input_embeddings().weight[:8][None].detach().requires_grad_()

    def gradient() -> torch.Tensor:
        (found,) = torch.autograd.grad(model(inputs_embeds=words).logits.square().sum(), words)
        return found

    before = gradient()
    with torch.no_grad():
        model.eval()(inputs_embeds=words.detach())
    model.train()
    assert torch.equal(gradient(), before)


def test_dpo_keeps_its_exact_start_and_learns(toy_dpo, tmp_path):
    adapter, metrics = run(toy_dpo, "dpo", tmp_path, "num_eval_prompts=8")
    first = json.loads((adapter / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (metrics["before"]["accuracy"], metrics["before"]["margin"]) == (0.5, 0)
    assert metrics["after"]["accuracy"] > 0.9
    assert {tensor.dtype for tensor in load_file(adapter / "adapter_model.safetensors").values()} == {torch.float32}


def test_rl_keeps_its_exact_start(toy_run, tmp_path):
    artifact, metrics = run(toy_run, "rl", tmp_path, "max_steps=2", "num_eval_prompts=8", "num_samples=1")
    first = json.loads((artifact / "metrics.jsonl").read_text().splitlines()[0])
    assert first["kl"] == 0
    assert metrics["before"]["kl"] == 0


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
def test_all_parameters_cannot_be_trained_in_4_bits(toy_run, tmp_path, stage):
    arguments = ["--config", str(toy_run.config), "--output", str(tmp_path)]
    arguments += ["--set", f"{stage}.lora=null", "--set", f"{stage}.load_in_4bit=true"]
    result = python("-m", f"components.{stage}", *arguments)
    assert result.returncode == 2
    assert "load_in_4bit freezes the weights: it needs lora" in result.stderr
