"""What a rollout is worth to PPO: log-probabilities, values, scores, and from them advantages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.common import distributed, heartbeat
from components.rl import ppo
from components.rl.advantages import advantages_and_returns
from components.rl.config import RlConfig
from components.rl.halt import NEVER, Halt
from components.rl.rewards import NamedFunction, call_function
from components.rl.roles import Role, Roles
from components.rl.rollout import Prompts, Rollout

Decode = Callable[[NDArray[np.int64]], str]


@dataclass(frozen=True)
class Setup:
    """What stays the same from rollout to rollout.

    Attributes:
        roles: The models.
        prompts: Where the prompts are.
        decode: From a completion's token ids to its text.
        functions: The reward functions.
        config: Settings.
        seed: Of everything random.
    """

    roles: Roles
    prompts: Prompts
    decode: Decode
    functions: Sequence[NamedFunction]
    config: RlConfig
    seed: int


@dataclass(frozen=True)
class Worth:
    """What completions are worth; arrays of shape (completions,).

    Attributes:
        scores: The reward model's raw scores.
        functions: The raw values of each reward function.
        total: The weighted sum, without penalties.
    """

    scores: NDArray[np.float64]
    functions: dict[str, NDArray[np.float64]]
    total: NDArray[np.float64]


@dataclass(frozen=True)
class Experience:
    """What an update needs; tensors of shape (completions, tokens) on the CPU.

    Attributes:
        rollout: The completions.
        worth: What they are worth.
        beta: Weight of the KL penalty.
        logprobs: Under the policy that sampled.
        reference: Log-probabilities under the reference.
        advantages: What each token was better than expected.
        values: What the critic expected; None without a critic.
        returns: What it should have expected; None without a critic.
    """

    rollout: Rollout
    worth: Worth
    beta: float
    logprobs: Tensor
    reference: Tensor
    advantages: Tensor
    values: Tensor | None
    returns: Tensor | None

    def kl(self) -> NDArray[np.float64]:
        """Each completion's log-ratio of policy to reference, summed over its tokens."""
        log_ratio: NDArray[np.float64] = ((self.logprobs - self.reference) * self.rollout.mask).sum(1).double().numpy()
        return log_ratio


def minibatches(config: RlConfig, step: int, epoch: int, seed: int) -> list[list[int]]:
    """Shuffles a rollout batch into minibatches, from the numbers of step and epoch alone."""
    order = np.random.default_rng((seed, step, epoch)).permutation(config.rollout_batch_size)
    return [[int(i) for i in part] for part in np.split(order, config.num_mini_batches)]


def micro_batches(rollout: Rollout, rows: Sequence[int], size: int) -> list[list[int]]:
    """This process's share of some completions, in pieces that fit its memory.

    A piece's sequences are of like length, so that little of it is padding.
    """
    by_length = sorted(rows, key=lambda row: -len(rollout.sequences[row]))
    share = distributed.shard(by_length)
    return [list(share[i : i + size]) for i in range(0, len(share), size)]


def gather_experience(setup: Setup, rollout: Rollout, beta: float, step: int, halt: Halt = NEVER) -> Experience:
    """Scores a rollout in all four roles and turns scores into advantages.

    The log-probabilities are computed in the very micro-batches of the first pass of the update: the same tensors give
    the same bits, so that the first ratios are exactly 1.
    """
    roles, config = setup.roles, setup.config
    pieces = [
        piece
        for minibatch in minibatches(config, step, 0, setup.seed)
        for piece in micro_batches(rollout, minibatch, config.per_device_train_batch_size)
    ]
    logprobs = token_values(roles, rollout, pieces, "policy", roles.logprobs, halt)
    reference = token_values(roles, rollout, pieces, "reference", roles.logprobs, halt)
    has_critic = roles.value_head is not None
    values = token_values(roles, rollout, pieces, "critic", roles.values, halt) if has_critic else None
    worth = judge(setup, rollout, halt)
    limit = config.reward_clip or np.inf
    scores = torch.from_numpy(np.clip(worth.total, -limit, limit) - config.missing_eos_penalty * ~rollout.ended)
    advantages, returns = advantages_and_returns(
        config, scores.float(), logprobs, reference, values, rollout.mask, beta
    )
    return Experience(rollout, worth, beta, logprobs, reference, advantages, values, returns)


def token_values(
    roles: Roles,
    rollout: Rollout,
    pieces: Sequence[list[int]],
    role: Role,
    compute: Callable[[Tensor, Tensor], Tensor],
    halt: Halt = NEVER,
) -> Tensor:
    """Computes one number for each written token, in one role.

    Args:
        roles: The models.
        rollout: The completions.
        pieces: This process's rows, in micro-batches.
        role: Which model.
        compute: `Roles.logprobs` or `Roles.values`.
        halt: Whether to leave the rest zero.

    Returns:
        Float32 of shape (completions, tokens), zero on padding, complete on every process.
    """
    device = roles.device_policy.device
    results = torch.zeros_like(rollout.mask)
    with torch.inference_mode(), roles.use(role):
        for rows in halt.until_asked(pieces):
            heartbeat.beat()
            ids, _, written = rollout.batch(rows, device)
            flat = compute(ids, written).float().cpu()
            part = torch.zeros(len(rows), rollout.mask.shape[1])
            part[rollout.mask[rows].bool()] = flat
            results[rows] = part
    # Every row was computed by one process and is zero on the others, so the sum is exact.
    return distributed.sum_over_ranks(results.to(device)).cpu()


def judge(setup: Setup, rollout: Rollout, halt: Halt = NEVER) -> Worth:
    """Asks the reward model and the reward functions; the latter are given nothing that was cut short."""
    texts = [setup.decode(ids) for ids in rollout.completions]
    if setup.roles.text_reward is None:
        scores = _scores(setup.roles, rollout, setup.config.per_device_train_batch_size, halt)
    else:
        conversations = [setup.prompts.messages(row) for row in rollout.rows]
        scores = setup.roles.text_reward.scores(conversations, texts, setup.config.eval_tokens, halt)
    halt.settle()
    questions = [setup.prompts.question(row) for row in rollout.rows]
    columns = [setup.prompts.columns(row) for row in rollout.rows]
    values = {f.name: call_function(f.call, f.name, questions, texts, columns) for f in setup.functions}
    total = setup.config.reward_model_weight * scores
    for function in setup.functions:
        total = total + function.weight * values[function.name]
    return Worth(scores, values, total)


def _scores(roles: Roles, rollout: Rollout, size: int, halt: Halt) -> NDArray[np.float64]:
    device = roles.device_policy.device
    results = torch.zeros(len(rollout))
    with torch.inference_mode(), roles.use("reward"):
        for rows in halt.until_asked(micro_batches(rollout, range(len(rollout)), size)):
            heartbeat.beat()
            ids, mask, _ = rollout.batch(rows, device)
            results[rows] = roles.scores(ids, mask).float().cpu()
    return distributed.sum_over_ranks(results.to(device)).cpu().double().numpy()


def summary(experience: Experience) -> dict[str, Any]:
    """What is worth watching of a rollout batch."""
    rollout, worth, mask = experience.rollout, experience.worth, experience.rollout.mask
    log_ratio = experience.reference - experience.logprobs
    return {
        "reward": float(worth.scores.mean()),
        **{name: float(values.mean()) for name, values in worth.functions.items()},
        "kl": float(experience.kl().mean()),
        "kl_k3": float((ppo.kl_k3(log_ratio) * mask).sum(1).mean()),
        "beta": experience.beta,
        "entropy": -float(ppo.masked_mean(experience.logprobs, mask)),
        **_explained(experience.values, experience.returns, mask),
        "completion_tokens": float(mask.sum(1).mean()),
        "ended": float(rollout.ended.mean()),
    }


def _explained(values: Tensor | None, returns: Tensor | None, mask: Tensor) -> dict[str, float]:
    """Share of the returns' variance that the critic foresaw."""
    if values is None or returns is None:
        return {}
    variance = ppo.masked_mean((returns - ppo.masked_mean(returns, mask)) ** 2, mask).clamp(min=1e-8)
    return {"explained_variance": 1 - float(ppo.masked_mean((returns - values) ** 2, mask) / variance)}
