"""Puts policy, critic and reward model on one base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.common import distributed
from components.common.adapters import load_adapter_weights, read_adapter_config
from components.common.device import DevicePolicy, device_policy
from components.common.errors import InputError
from components.common.evaluation import score_sequences
from components.common.logs import say
from components.common.lora import speed_up_lora
from components.common.models import load_causal_lm, load_reward_model
from components.common.stage import Job
from components.common.tokenizer import load_tokenizer, tokenizer_identity
from components.common.trainables import float32_trainables, lora_config
from components.common.trainer_arguments import seed_everything
from components.reward.parity import load_parity
from components.rl.config import RlConfig
from components.rl.roles import Roles
from components.rl.text_reward import TextReward


def build_roles(job: Job[RlConfig]) -> Roles:
    """Loads the base with the adapters of all roles.

    The reward model's adapter can stand on the base if it was trained on it; otherwise the merged reward model is
    loaded beside it.

    Raises:
        InputError: The reward model does not give the scores it gave when it was trained.
    """
    from peft import get_peft_model

    config = job.config
    policy = device_policy()
    distributed.start(policy.device)
    seed_everything(job.seed)
    base = load_causal_lm(job.folder("model"), policy, load_in_4bit=config.load_in_4bit)
    fresh = lora_config(base, config.lora, "CAUSAL_LM")  # of the bare base: afterwards its layers have other names
    model = get_peft_model(base, copy.deepcopy(fresh), adapter_name="policy")
    reward = reward_input(job)
    on_base = job.plan.inputs[reward].kind == "adapter"
    text_reward = None if on_base or speaks_like_policy(job, reward) else TextReward.load(job.folder(reward), policy)
    if text_reward:
        say(job.name, "the reward model has another tokenizer: it is given text")
        head, separate = torch.zeros(1, base.config.hidden_size), None
    else:
        head, separate = _reward_adapter(job, model, reward) if on_base else _reward_model(job, reward, policy)
    value_head = None
    if config.algorithm == "ppo":
        value_head = _critic(job, model, fresh, head, job.folder(reward) if on_base else None).to(policy.device)
    _prepare(model, activation_checkpointing=config.activation_checkpointing)
    head = head.to(policy.device)
    roles = Roles(
        model,
        value_head,
        head,
        policy,
        config.temperature,
        separate,
        text_reward,
        merged_rollout=config.merged_rollout,
    )
    if text_reward is None:
        check_reward(job, roles, reward)
    return roles


def speaks_like_policy(job: Job[RlConfig], reward: str) -> bool:
    """Whether a reward model has the policy's vocabulary and chat template."""
    policy, judge = (tokenizer_identity(load_tokenizer(job.folder(name))) for name in ("model", reward))
    return policy == judge


def reward_input(job: Job[RlConfig]) -> str:
    """Name of the input that judges: the adapter if it stands on this very base, else the merged reward model.

    Raises:
        InputError: The adapter stands on another base and no merged reward model was given.
    """
    reward = job.plan.inputs["reward"]
    base = job.plan.inputs["model"].digest
    if reward.kind == "reward_model" or reward.parent_digest("model") in (base, None):
        return "reward"
    if not job.has("reward_model"):
        raise InputError(
            "this reward adapter was trained on another base than the policy's",
            where=reward.uri,
            hint="give the merged reward model as --input reward=… or --input reward_model=…",
        )
    say(job.name, "the reward adapter stands on another base: using the merged reward model as a separate model")
    return "reward_model"


def check_reward(job: Job[RlConfig], roles: Roles, reward: str) -> None:
    """Scores the pairs that came with the reward model and compares.

    Raises:
        InputError: The scores differ.
    """
    parity = load_parity(job.folder(reward))
    if parity is not None:
        with roles.use("reward"):
            scores = score_sequences(roles.scores, parity.sequences, roles.device_policy, job.config.eval_tokens)
        parity.check(scores, where=job.plan.inputs[reward].uri, quantised=job.config.load_in_4bit)


def _reward_adapter(job: Job[RlConfig], model: Any, reward: str) -> tuple[Tensor, None]:
    model.add_adapter("reward", read_adapter_config(job.folder(reward)))
    head = load_adapter_weights(model, job.folder(reward), "reward")
    if head is None:
        raise InputError("the adapter has no score head", where=job.plan.inputs[reward].uri, hint="run reward again")
    return head, None


def _reward_model(job: Job[RlConfig], reward: str, policy: DevicePolicy) -> tuple[Tensor, Any]:
    separate = load_reward_model(job.folder(reward), policy).eval()
    separate.requires_grad_(False)
    return separate.score.weight.detach().float().clone(), separate


def _critic(job: Job[RlConfig], model: Any, fresh: Any, head: Tensor, reward_adapter: Path | None) -> nn.Linear:
    """Adds the critic's adapter and makes its head; both start as the reward model's, which knows what is good."""
    value_head = nn.Linear(head.shape[1], 1)
    nn.init.zeros_(value_head.weight)
    nn.init.zeros_(value_head.bias)
    if reward_adapter is None or job.config.critic_init == "zero":
        model.add_adapter("critic", fresh)
        return value_head
    model.add_adapter("critic", read_adapter_config(reward_adapter))
    load_adapter_weights(model, reward_adapter, "critic")
    with torch.no_grad():
        value_head.weight.copy_(head)
    return value_head


def _prepare(model: Any, *, activation_checkpointing: bool) -> None:
    """No dropout in any role, float32 adapters, which compute in few passes."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    float32_trainables(model)
    speed_up_lora(model)
    model.train(activation_checkpointing)  # transformers checkpoints activations in training mode only
    if activation_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
