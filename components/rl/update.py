"""PPO's optimizer steps: policy and critic one after the other, one step for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from components.common import distributed
from components.common.errors import UserError
from components.rl import ppo
from components.rl.config import RlConfig
from components.rl.experience import Experience, micro_batches, minibatches
from components.rl.roles import Roles


@dataclass(frozen=True)
class Optimizers:
    """One optimizer with a group for the policy and one for the critic, its schedule, and the scaler for float16."""

    optimizer: torch.optim.Optimizer
    scheduler: Any
    scaler: torch.amp.GradScaler

    @staticmethod
    def build(roles: Roles, config: RlConfig) -> Optimizers:
        """Adam on both groups; the learning rates follow one schedule."""
        from transformers import get_scheduler

        groups: list[dict[str, Any]] = [
            {"params": roles.parameters("policy"), "lr": config.learning_rate},
            {"params": roles.parameters("critic"), "lr": config.critic_learning_rate},
        ]
        trained = [parameter for group in groups for parameter in group["params"]]
        distributed.broadcast([parameter.data for parameter in trained])
        for parameter in trained:
            # Gradients live as long as the parameters: made anew in every backward pass, they would settle in the gaps
            # that activations leave, and the next pass's activations would find no gap large enough for them.
            parameter.grad = torch.zeros_like(parameter)
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        warmup = math.ceil(config.warmup_ratio * config.optimizer_steps)
        scheduler = get_scheduler(config.lr_scheduler_type, optimizer, warmup, config.optimizer_steps)
        policy = roles.device_policy
        return Optimizers(optimizer, scheduler, torch.amp.GradScaler(policy.device.type, enabled=policy.fp16))


def update(
    roles: Roles, experience: Experience, optimizers: Optimizers, config: RlConfig, step: int, seed: int
) -> dict[str, float]:
    """Makes all optimizer steps of a rollout batch.

    Args:
        roles: The models; policy and critic change.
        experience: The rollout and its advantages, the same on every process.
        optimizers: Optimizer, schedule, scaler.
        config: Settings.
        step: Rollout batch, from 0.
        seed: Of the shuffling.

    Returns:
        Means over all steps.
    """
    sums: dict[str, float] = {}
    steps = [m for epoch in range(config.num_ppo_epochs) for m in minibatches(config, step, epoch, seed)]
    for rows in steps:
        for name, value in _step(roles, experience, optimizers, config, rows).items():
            sums[name] = sums.get(name, 0.0) + value / len(steps)
    return sums


def _step(
    roles: Roles, experience: Experience, optimizers: Optimizers, config: RlConfig, rows: Sequence[int]
) -> dict[str, float]:
    device = roles.device_policy.device
    # Of the whole minibatch on all processes, so that gradients can be summed over processes as they are.
    tokens = float(experience.rollout.mask[list(rows)].sum())
    pieces = micro_batches(experience.rollout, rows, config.per_device_train_batch_size)
    totals = torch.zeros(4, device=device)
    with roles.use("policy"):
        for piece in pieces:
            ids, _, written = experience.rollout.batch(piece, device)
            old, advantages = _flat(experience, piece, experience.logprobs, experience.advantages)
            terms = ppo.policy_terms(
                roles.logprobs(ids, written), old.to(device), advantages.to(device), config.cliprange
            )
            optimizers.scaler.scale(terms.loss / tokens).backward()
            totals[:3] += torch.stack([terms.loss.detach(), terms.clipped.float(), terms.approx_kl]) / tokens
    with roles.use("critic"):
        for piece in pieces:
            ids, _, written = experience.rollout.batch(piece, device)
            old, returns = _flat(experience, piece, experience.values, experience.returns)
            loss = ppo.value_loss(
                roles.values(ids, written), old.to(device), returns.to(device), config.cliprange_value
            )
            optimizers.scaler.scale(loss / tokens).backward()
            totals[3] += loss.detach() / tokens
    norms = _apply(roles, optimizers, config)
    names = ("policy_loss", "clipped", "approx_kl", "value_loss")
    means = distributed.sum_over_ranks(totals).tolist()
    if not all(map(math.isfinite, means)):
        raise UserError("the loss is not finite", where="rl", hint="lower rl.learning_rate")
    return {**dict(zip(names, means, strict=True)), **norms}


def _flat(experience: Experience, rows: list[int], *arrays: torch.Tensor) -> list[torch.Tensor]:
    """Values of the tokens of some rows, row after row, in the order in which `Roles` gives its own."""
    tokens = experience.rollout.mask[rows].bool()
    return [values[rows][tokens] for values in arrays]


def _apply(roles: Roles, optimizers: Optimizers, config: RlConfig) -> dict[str, float]:
    """Sums gradients over processes, clips each role's, and steps."""
    groups = {role: roles.parameters(role) for role in ("policy", "critic")}
    # Scaled gradients are summed before they are unscaled: an overflow on one process is then one on all, and all skip.
    sum_gradients([parameter for group in groups.values() for parameter in group])
    optimizers.scaler.unscale_(optimizers.optimizer)
    norms = {
        f"grad_norm_{role}": float(nn.utils.clip_grad_norm_(group, config.max_grad_norm))
        for role, group in groups.items()
    }
    optimizers.scaler.step(optimizers.optimizer)
    optimizers.scaler.update()
    optimizers.scheduler.step()
    optimizers.optimizer.zero_grad(set_to_none=False)
    return norms


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Adds the gradients of all processes, in one message."""
    if distributed.world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = distributed.sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
