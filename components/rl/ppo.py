"""The arithmetic of PPO on completions. Pure functions of tensors of shape (completions, tokens) unless said otherwise.

`mask` is 1 on a completion's tokens, its end-of-turn token included, and 0 on padding.

Sources: proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), generalised advantage estimation
(Schulman et al. 2015, arXiv:1506.02438), its use on language models with a KL penalty to a reference (Ziegler et al.
2019, arXiv:1909.08593; Ouyang et al. 2022, arXiv:2203.02155).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of all completions."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scales to unit variance over all tokens, and to zero mean unless told not to."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    centred = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (centred if shift_mean else centred + mean) * mask


def token_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards of each token: the KL penalty everywhere, the completion's score on its last token.

    Args:
        scores: Shape (completions,).
        logprobs: Log-probabilities under the policy that sampled.
        reference: Log-probabilities under the reference.
        mask: See above.
        beta: Weight of the penalty.
    """
    rewards = -beta * (logprobs - reference) * mask
    rewards[torch.arange(len(scores)), mask.long().sum(1) - 1] += scores
    return rewards


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation; nothing follows a completion's last token."""
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(running)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
        following = values[:, t] * mask[:, t]
    return advantages, (advantages + values) * mask


@dataclass(frozen=True)
class PolicyTerms:
    """The clipped policy objective and what is worth watching of it; all summed over tokens."""

    loss: Tensor
    clipped: Tensor
    approx_kl: Tensor


def policy_terms(new: Tensor, old: Tensor, advantages: Tensor, cliprange: float) -> PolicyTerms:
    """Clipped surrogate loss, summed over tokens.

    Args:
        new: Log-probabilities under the policy in training, shape (tokens,).
        old: Log-probabilities under the policy that sampled, shape (tokens,).
        advantages: Shape (tokens,).
        cliprange: How far the ratio may move the objective.
    """
    ratio = (new - old).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = torch.max(unclipped, clipped).sum()
    with torch.no_grad():
        return PolicyTerms(loss, (clipped > unclipped).sum(), kl_k3(new - old).sum())


def value_loss(new: Tensor, old: Tensor, returns: Tensor, cliprange_value: float) -> Tensor:
    """Half the squared error of the values, clipped around the old values, summed over tokens; shapes (tokens,)."""
    clipped = old + (new - old).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.max((new - returns) ** 2, (clipped - returns) ** 2).sum()


def kl_k3(log_ratio: Tensor) -> Tensor:
    """An estimate of KL(p‖q) from samples of p that is never negative (Schulman 2020, "Approximating KL divergence").

    Args:
        log_ratio: log q − log p of each sampled token.
    """
    return log_ratio.exp() - 1 - log_ratio


@dataclass
class KlController:
    """The weight of the KL penalty: fixed, or adapted so that a completion's KL stays near a target.

    Args:
        beta: The weight.
        target: Wanted KL in nats a completion; None keeps the weight.
        horizon: Completions over which the weight reacts.
    """

    beta: float
    target: float | None
    horizon: int

    def update(self, kl: float, completions: int) -> None:
        """Moves the weight after a batch (Ziegler et al. 2019, §2.2)."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + error * completions / self.horizon
