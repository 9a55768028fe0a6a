"""The four models of PPO as four models: each its own copy of the base with its own adapter, loaded by PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

from components.common.trainables import lora_targets
from components.rl.config import RlConfig


@dataclass(frozen=True)
class FourModels:
    """Four models that have no tensor in common."""

    policy: Any
    reference: Any
    critic: Any
    reward: Any
    value_head: nn.Linear
    score_head: torch.Tensor

    @staticmethod
    def load(bases: dict[str, Path], reward_adapter: Path, config: RlConfig, seed: int) -> FourModels:
        """Loads each model from a folder of its own.

        Args:
            bases: Folder of each role's copy of the base. One folder would do for the numbers; but weights that are
                mapped from one file are one piece of memory, however many models map it.
            reward_adapter: Adapter and score head, from which the critic starts as well.
            config: Rank of the policy's adapter.
            seed: Of its initial weights.
        """
        set_seed(seed)
        policy = AutoModelForCausalLM.from_pretrained(bases["policy"], dtype=torch.float32)
        fresh = {"r": config.lora.r, "lora_alpha": config.lora.lora_alpha, "target_modules": lora_targets(policy)}
        policy = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", **fresh))
        reference = AutoModelForCausalLM.from_pretrained(bases["reference"], dtype=torch.float32)
        reference.requires_grad_(False)
        critic = _judge(bases["critic"], reward_adapter, trainable=True)
        reward = _judge(bases["reward"], reward_adapter, trainable=False)
        head = _score_weight(reward).detach().clone()
        value_head = nn.Linear(head.shape[1], 1)
        with torch.no_grad():
            value_head.weight.copy_(head)
            value_head.bias.zero_()
        models = FourModels(policy, reference, critic, reward, value_head, head)
        for model in (policy, reference, critic, reward):
            model.eval()
        return models

    def trained(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters of each role, in the order of the model's layers."""
        return {
            "policy": [p for n, p in self.policy.named_parameters() if "lora_" in n],
            "critic": [p for n, p in self.critic.named_parameters() if "lora_" in n]
            + list(self.value_head.parameters()),
        }


def _judge(base: Path, adapter: Path, *, trainable: bool) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)


def _score_weight(model: Any) -> torch.Tensor:
    weight: torch.Tensor = model.get_base_model().score.modules_to_save["default"].weight
    return weight
