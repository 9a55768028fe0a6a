"""From scores to advantages, token by token: the algorithms differ in this and in nothing else before the update.

Sources: PPO with a critic (see `ppo`), REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740), group relative
policy optimisation (Shao et al. 2024, arXiv:2402.03300).
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.rl import ppo
from components.rl.config import RlConfig


def advantages_and_returns(
    config: RlConfig,
    scores: Tensor,
    logprobs: Tensor,
    reference: Tensor,
    values: Tensor | None,
    mask: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor | None]:
    """The advantage of each written token, and what the critic should have said.

    Args:
        config: Says which algorithm.
        scores: What each completion is worth, shape (completions,); those of one prompt stand side by side.
        logprobs: Log-probabilities under the policy that sampled, shape (completions, tokens).
        reference: Log-probabilities under the reference, same shape.
        values: The critic's values, same shape; None for algorithms without a critic.
        mask: 1 on completion tokens, same shape.
        beta: Weight of the KL penalty.

    Returns:
        Advantages, and returns where there is a critic; both of shape (completions, tokens).
    """
    if config.algorithm == "ppo":
        assert values is not None  # `build_roles` makes a critic for it
        rewards = ppo.token_rewards(scores, logprobs, reference, mask, beta)
        if config.whiten_rewards:
            rewards = ppo.whiten(rewards, mask, shift_mean=False)
        advantages, returns = ppo.advantages_and_returns(rewards, values, mask, config.gamma, config.lam)
        return ppo.whiten(advantages, mask), returns
    if config.algorithm == "rloo":
        penalised = scores - beta * ((logprobs - reference) * mask).sum(1)
        return leave_one_out(penalised, config.num_generations)[:, None] * mask, None
    # The KL penalty of GRPO is part of the loss, not of the reward.
    return group_relative(scores, config.num_generations, scale=config.scale_rewards)[:, None] * mask, None


def leave_one_out(scores: Tensor, num_generations: int) -> Tensor:
    """What each completion is better than the mean of its prompt's other completions, shape (completions,)."""
    groups = scores.view(-1, num_generations)
    others = (groups.sum(1, keepdim=True) - groups) / (num_generations - 1)
    return (groups - others).flatten()


def group_relative(scores: Tensor, num_generations: int, *, scale: bool) -> Tensor:
    """What each completion is better than its prompt's mean, in standard deviations of its prompt if `scale`."""
    groups = scores.view(-1, num_generations)
    centred = groups - groups.mean(1, keepdim=True)
    if scale:
        centred = centred / (groups.std(1, keepdim=True) + 1e-4)
    return torch.as_tensor(centred).flatten()
