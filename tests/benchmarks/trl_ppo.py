"""TRL's PPOTrainer on the task of bench_ppo_trl: the peer's half, run in the peer's own environment.

    python trl_ppo.py TASK.json

Reads the task, trains, saves the policy's adapter, and prints as JSON what it took. Imports nothing of this tree.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Scores(TrainerCallback):
    """Keeps each step's metrics."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self.steps.append(dict(logs or {}))


def value_model(task: dict[str, Any]) -> Any:
    """The critic, which starts as the reward model.

    As an adapter: the reward stage's own adapter and score head on a copy of the base, trained on, as in the rl stage.
    Whole: a copy of the merged reward model with all parameters trained, as TRL's own example does.
    """
    if task["value_model"] == "adapter":
        base = AutoModelForSequenceClassification.from_pretrained(task["base"], num_labels=1, dtype=torch.float32)
        return PeftModel.from_pretrained(base, task["reward_adapter"], is_trainable=True).get_base_model()
    return AutoModelForSequenceClassification.from_pretrained(task["reward_model"], dtype=torch.float32)


def train(task: dict[str, Any]) -> dict[str, Any]:
    """Trains as the task says."""
    batch, steps, epochs = task["rollout_batch_size"], task["steps"], task["num_ppo_epochs"]
    tokenizer = AutoTokenizer.from_pretrained(task["base"], padding_side="left")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    policy = AutoModelForCausalLM.from_pretrained(task["base"], dtype=torch.float32)
    reward = AutoModelForSequenceClassification.from_pretrained(task["reward_model"], dtype=torch.float32)
    reward.requires_grad_(False)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=task["lora_r"], lora_alpha=task["lora_alpha"], target_modules=task["target_modules"]
    )
    arguments = PPOConfig(
        output_dir=task["output"],
        seed=task["seed"],
        # With accumulation TRL makes one optimizer step a pass, whatever `num_mini_batches` says; with the whole batch
        # as the "device" batch it makes one for each minibatch, computed in one piece.
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_mini_batches=task["num_mini_batches"],
        num_ppo_epochs=epochs,
        total_episodes=batch * steps,
        local_rollout_forward_batch_size=batch,
        response_length=task["max_completion_length"],
        stop_token="eos",
        missing_eos_penalty=task["missing_eos_penalty"],
        temperature=task["temperature"],
        kl_coef=task["beta"],
        cliprange=task["cliprange"],
        cliprange_value=task["cliprange_value"],
        gamma=task["gamma"],
        lam=task["lam"],
        learning_rate=task["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        # The defaults would recompute activations, use bfloat16, sample for show, save and report.
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    # TRL shuffles the prompts itself; here both contestants get the very same batches.
    ppo_trainer.DataLoader = partial(_in_order)
    scores = Scores()
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value_model(task),
        train_dataset=Dataset.from_dict({"input_ids": task["prompts"]}),
        # Never sampled from; it only has to be there.
        eval_dataset=Dataset.from_dict({"input_ids": task["prompts"][:1]}),
        peft_config=lora,
        callbacks=[scores],
    )
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    began, began_cpu = time.monotonic(), time.process_time()
    trainer.train()
    cpu, wall = time.process_time() - began_cpu, time.monotonic() - began
    trainer.policy_model.save_pretrained(task["output"], save_embedding_layers=False)
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "optimizer_steps": int(next(iter(trainer.optimizer.optimizer.state.values()))["step"]),
        "trainable_parameters": trainable,
        "rewards": [step["objective/scores"] for step in scores.steps if "objective/scores" in step],
        "kl": [step["objective/kl"] for step in scores.steps if "objective/kl" in step],
    }


def _in_order(dataset: Any, **options: Any) -> Any:
    return DataLoader(dataset, **{**options, "shuffle": False})


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
