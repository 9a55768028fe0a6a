"""PPO's optimizer steps: policy and critic one after the other, one step for both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from components.common import distributed, heartbeat
from components.common.errors import UserError
from components.common.overflow import OverflowWatch
from components.rl import ppo
from components.rl.config import RlConfig
from components.rl.experience import Experience, micro_batches, minibatches
from components.rl.halt import NEVER, Halt
from components.rl.roles import Roles


@dataclass(frozen=True)
class Optimizers:
    """One optimizer with a group for the policy and one for the critic, its schedule, and the scaler for float16."""

    optimizer: torch.optim.Optimizer
    scheduler: Any
    scaler: torch.amp.GradScaler
    watch: OverflowWatch = field(default_factory=lambda: OverflowWatch("rl"))

    @staticmethod
    def build(roles: Roles, config: RlConfig) -> Optimizers:
        """Adam on both groups; the learning rates follow one schedule."""
        from transformers import get_scheduler

        rates = {"policy": config.learning_rate, "critic": config.critic_learning_rate}
        groups: list[dict[str, Any]] = [{"params": roles.parameters(role), "lr": rates[role]} for role in roles.trained]
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
    roles: Roles,
    experience: Experience,
    optimizers: Optimizers,
    config: RlConfig,
    step: int,
    seed: int,
    halt: Halt = NEVER,
) -> dict[str, float]:
    """Makes all optimizer steps of a rollout batch.

    Args:
        roles: The models; policy and critic change.
        experience: The rollout and its advantages, the same on every process.
        optimizers: Optimizer, schedule, scaler.
        config: Settings.
        step: Rollout batch, from 0.
        seed: Of the shuffling.
        halt: Whether to give up in the middle; some optimizer steps may then have been made, so that whoever settles it
            must have kept what was there before.

    Returns:
        Means over all steps.
    """
    sums: dict[str, float] = {}
    steps = [m for epoch in range(config.num_ppo_epochs) for m in minibatches(config, step, epoch, seed)]
    for rows in steps:
        for name, value in _step(roles, experience, optimizers, config, rows, halt).items():
            sums[name] = sums.get(name, 0.0) + value / len(steps)
    return sums


def _step(
    roles: Roles, experience: Experience, optimizers: Optimizers, config: RlConfig, rows: Sequence[int], halt: Halt
) -> dict[str, float]:
    pieces = micro_batches(experience.rollout, rows, config.per_device_train_batch_size)
    # Of the whole minibatch on all processes, so that gradients can be summed over processes as they are.
    tokens = float(experience.rollout.mask[list(rows)].sum())
    sums = _policy_gradients(roles, experience, optimizers.scaler, config, halt.until_asked(pieces), tokens)
    sums |= _critic_gradients(roles, experience, optimizers.scaler, config, halt.until_asked(pieces), tokens)
    halt.settle()
    applied = apply_gradients(roles, optimizers, config.max_grad_norm)
    means = distributed.sum_over_ranks(torch.stack(list(sums.values()))).tolist()
    if not all(map(math.isfinite, means)):
        raise UserError("the loss is not finite", where="rl", hint="lower rl.learning_rate")
    return {**dict(zip(sums, means, strict=True)), **applied}


def _policy_gradients(
    roles: Roles,
    experience: Experience,
    scaler: torch.amp.GradScaler,
    config: RlConfig,
    pieces: Iterable[list[int]],
    tokens: float,
) -> dict[str, torch.Tensor]:
    device = roles.device_policy.device
    totals = torch.zeros(3, device=device)
    penalty = experience.beta if config.algorithm == "grpo" else 0.0
    with roles.use("policy"):
        for piece in pieces:
            heartbeat.beat()
            ids, _, written = experience.rollout.batch(piece, device)
            known = _flat(experience, piece, experience.logprobs, experience.reference, experience.advantages)
            old, reference, advantages = (values.to(device) for values in known)
            new = roles.logprobs(ids, written)
            terms = ppo.policy_terms(new, old, advantages, config.cliprange)
            loss = terms.loss + penalty * ppo.kl_k3(reference - new).sum() if penalty else terms.loss
            scaler.scale(loss / tokens).backward()
            totals += torch.stack([loss.detach(), terms.clipped.float(), terms.approx_kl]) / tokens
    return dict(zip(("policy_loss", "clipped", "approx_kl"), totals.unbind(), strict=True))


def _critic_gradients(
    roles: Roles,
    experience: Experience,
    scaler: torch.amp.GradScaler,
    config: RlConfig,
    pieces: Iterable[list[int]],
    tokens: float,
) -> dict[str, torch.Tensor]:
    if experience.values is None or experience.returns is None:
        return {}
    device = roles.device_policy.device
    total = torch.zeros((), device=device)
    with roles.use("critic"):
        for piece in pieces:
            heartbeat.beat()
            ids, _, written = experience.rollout.batch(piece, device)
            old, returns = (v.to(device) for v in _flat(experience, piece, experience.values, experience.returns))
            loss = ppo.value_loss(roles.values(ids, written), old, returns, config.cliprange_value)
            scaler.scale(loss / tokens).backward()
            total += loss.detach() / tokens
    return {"value_loss": total}


def _flat(experience: Experience, rows: list[int], *arrays: torch.Tensor) -> list[torch.Tensor]:
    """Values of the tokens of some rows, row after row, in the order in which `Roles` gives its own."""
    tokens = experience.rollout.mask[rows].bool()
    return [values[rows][tokens] for values in arrays]


def apply_gradients(roles: Roles, optimizers: Optimizers, max_grad_norm: float) -> dict[str, float]:
    """Sums gradients over processes, clips each role's, and steps.

    Returns:
        Norms of the gradients; with a gradient scaler also its scale, and 1 for a step that it skipped.
    """
    groups = {role: roles.parameters(role) for role in roles.trained}
    # Scaled gradients are summed before they are unscaled: an overflow on one process is then one on all, and all skip.
    sum_gradients([parameter for group in groups.values() for parameter in group])
    optimizers.scaler.unscale_(optimizers.optimizer)
    norms = {
        f"grad_norm_{role}": float(nn.utils.clip_grad_norm_(group, max_grad_norm)) for role, group in groups.items()
    }
    scale = optimizers.scaler.get_scale()
    optimizers.scaler.step(optimizers.optimizer)
    optimizers.scaler.update()
    now = optimizers.scaler.get_scale()
    skipped = now < scale
    if not skipped:
        optimizers.scheduler.step()
    optimizers.optimizer.zero_grad(set_to_none=False)
    if not optimizers.scaler.is_enabled():
        return norms
    optimizers.watch.step(skipped=skipped)
    return {**norms, "loss_scale": now, "skipped": float(skipped)}


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Adds the gradients of all processes, in one message."""
    if distributed.world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = distributed.sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
