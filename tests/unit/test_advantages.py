"""Advantages of RLOO and GRPO against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch

from components.rl.advantages import advantages_and_returns, group_relative, leave_one_out
from components.rl.config import RlConfig

SCORES = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 2.0])  # two prompts, three completions each
MASK = torch.tensor([[1.0, 1.0], [1.0, 0.0]] * 3)
LOGPROBS = torch.tensor([[-1.0, -2.0]]).repeat(6, 1) * MASK
REFERENCE = torch.tensor([[-1.5, -2.0]]).repeat(6, 1) * MASK


def test_leave_one_out():
    # 1 against the mean of 3 and 5; 3 against that of 1 and 5; 5 against that of 1 and 3.
    assert leave_one_out(SCORES, 3).tolist() == [-3.0, 0.0, 3.0, 0.0, 0.0, 0.0]


def test_group_relative():
    assert group_relative(SCORES, 3, scale=False).tolist() == [-2.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    scaled = group_relative(SCORES, 3, scale=True)
    assert scaled.tolist() == pytest.approx([-1.0, 0.0, 1.0, 0.0, 0.0, 0.0], abs=1e-4)  # the deviation is 2


def test_rloo_pays_the_kl_penalty_before_it_compares():
    config = RlConfig(algorithm="rloo", num_generations=2, num_mini_batches=1, rollout_batch_size=6)
    advantages, returns = advantages_and_returns(config, SCORES, LOGPROBS, REFERENCE, None, MASK, beta=2.0)
    # Each completion pays 2 × 0.5 for its first token, so that nothing changes between two of one prompt.
    assert returns is None
    assert advantages.tolist() == [[-2.0, -2.0], [2.0, 0.0], [3.0, 3.0], [-3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    dearer = REFERENCE.clone()
    dearer[0, 0] = -2.5  # now the first pays 3 and the second 1
    advantages, _ = advantages_and_returns(config, SCORES, LOGPROBS, dearer, None, MASK, beta=2.0)
    assert advantages[:2].tolist() == [[-4.0, -4.0], [4.0, 0.0]]


def test_grpo_leaves_the_kl_penalty_to_the_loss():
    config = RlConfig(
        algorithm="grpo", num_generations=2, num_mini_batches=1, rollout_batch_size=6, scale_rewards=False
    )
    free, _ = advantages_and_returns(config, SCORES, LOGPROBS, REFERENCE, None, MASK, beta=0.0)
    dear, _ = advantages_and_returns(config, SCORES, LOGPROBS, REFERENCE, None, MASK, beta=9.0)
    assert free.tolist() == [[-1.0, -1.0], [1.0, 0.0], [1.5, 1.5], [-1.5, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert torch.equal(free, dear)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_comparing_needs_several_completions(algorithm):
    with pytest.raises(ValueError, match=f"{algorithm} compares completions of one prompt: num_generations must be 2"):
        RlConfig(algorithm=algorithm)


def test_grpo_has_no_adaptive_penalty():
    with pytest.raises(ValueError, match="set target_kl: null"):
        RlConfig(algorithm="grpo", num_generations=2, target_kl=1.0)
