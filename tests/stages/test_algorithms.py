"""RLOO and GRPO learn as PPO does, on the same base, from the same reward; a foreign reward model is given text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from components.prepare.scratch import make_tokenizer
from tests.support.commands import python
from tests.support.models import tiny_config


def run_rl(toy_run, store: Path, settings: list[str], **inputs: str):
    """Runs the rl stage as the toy run did, but for some settings and inputs."""
    given = {name: str(toy_run.store / p.uri) for name, p in toy_run.manifest("rl").parents.items()} | inputs
    arguments = ["--config", str(toy_run.config), "--output", str(store)]
    arguments += [part for name, uri in given.items() for part in ("--input", f"{name}={uri}")]
    arguments += [part for setting in settings for part in ("--set", f"rl.{setting}")]
    result = python("-m", "components.rl", *arguments)
    assert result.returncode == 0, result.stderr
    (artifact,) = (store / "artifacts" / "rl").iterdir()
    return result.stdout, json.loads((artifact / "manifest.json").read_text())["metrics"], artifact


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_reward_rises_without_a_critic(toy_run, tmp_path, algorithm):
    settings = [f"algorithm={algorithm}", "num_generations=4", "max_steps=80"]
    output, metrics, artifact = run_rl(toy_run, tmp_path, settings)
    assert metrics["exact_gain"]["low"] > 0
    assert metrics["reward_gain"]["mean"] > 0
    assert metrics["before"]["kl"] == 0 < metrics["after"]["kl"]
    curves = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    assert curves[0]["kl"] == 0
    assert "value_loss" not in curves[0]
    assert "value_loss" not in output


def test_a_reward_model_with_other_words_is_given_text(toy_run, tmp_path):
    words = make_tokenizer(["which word is it that the cow and the pig and the owl said in a tower"] * 20, 300)
    folder = tmp_path / "judge"
    words.save_pretrained(folder)
    AutoModelForSequenceClassification.from_config(tiny_config("llama", words, num_labels=1)).save_pretrained(folder)
    output, metrics, _ = run_rl(toy_run, tmp_path / "store", ["max_steps=2", "reward_functions=[]"], reward=str(folder))
    assert "the reward model has another tokenizer: it is given text" in output
    assert metrics["before"]["reward"] != 0
