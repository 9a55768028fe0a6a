"""PPO's arithmetic against numbers computed by hand."""

import math

import pytest
import torch

from components.rl import ppo


def test_advantages_equal_hand_computed_numbers():
    rewards = torch.tensor([[0.0, 1.0, 0.0]])
    values = torch.tensor([[0.5, 0.25, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])  # the third token is padding: its value must not count
    advantages, returns = ppo.advantages_and_returns(rewards, values, mask, gamma=0.9, lam=0.8)
    last = 1.0 - 0.25
    first = 0.0 + 0.9 * 0.25 - 0.5 + 0.9 * 0.8 * last
    assert advantages.tolist() == [pytest.approx([first, last, 0.0])]
    assert returns.tolist() == [pytest.approx([first + 0.5, last + 0.25, 0.0])]


def test_with_gamma_and_lambda_1_the_return_is_the_sum_of_rewards():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.rand(4, 7, generator=generator), torch.rand(4, 7, generator=generator)
    mask = (torch.arange(7)[None] < torch.tensor([7, 5, 1, 3])[:, None]).float()
    rewards = rewards * mask
    _, returns = ppo.advantages_and_returns(rewards, values, mask, gamma=1.0, lam=1.0)
    expected = rewards.flip(1).cumsum(1).flip(1) * mask
    assert torch.allclose(returns, expected, atol=1e-6)


def test_the_score_stands_on_the_last_token_and_the_penalty_on_all():
    logprobs = torch.tensor([[-1.0, -2.0, 5.0], [-1.0, -1.0, -1.0]])
    reference = torch.tensor([[-1.5, -1.0, 7.0], [-1.0, -1.0, -2.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    rewards = ppo.token_rewards(torch.tensor([3.0, -2.0]), logprobs, reference, mask, beta=0.1)
    assert rewards.tolist() == [pytest.approx([-0.05, 3.1, 0.0]), pytest.approx([0.0, 0.0, -2.1])]


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "clipped"),
    [
        (0.0, 2.0, -2.0, 0),  # the first pass: ratio 1
        (math.log(1.5), 2.0, -2.4, 1),  # a good token made likelier than allowed: no more gain
        (math.log(1.5), -2.0, 3.0, 0),  # a bad token made likelier: the full price
        (math.log(0.5), -2.0, 1.6, 1),
        (math.log(0.5), 2.0, -1.0, 0),
    ],
)
def test_policy_loss_clips_only_what_would_be_too_good(log_ratio, advantage, loss, clipped):
    terms = ppo.policy_terms(torch.tensor([log_ratio]), torch.zeros(1), torch.tensor([advantage]), cliprange=0.2)
    assert terms.loss.item() == pytest.approx(loss)
    assert terms.clipped.item() == clipped


def test_a_clipped_token_has_no_gradient():
    new = torch.tensor([math.log(1.5), 0.1], requires_grad=True)
    ppo.policy_terms(new, torch.zeros(2), torch.tensor([2.0, 2.0]), cliprange=0.2).loss.backward()
    assert new.grad[0] == 0
    assert new.grad[1] == pytest.approx(-2.0 * math.exp(0.1))


def test_value_loss_takes_the_worse_of_clipped_and_unclipped():
    loss = ppo.value_loss(torch.tensor([1.0, 0.1]), torch.zeros(2), torch.tensor([1.0, 1.0]), cliprange_value=0.2)
    assert loss.item() == pytest.approx(0.5 * (0.8**2 + 0.9**2))


def test_k3_is_never_negative_and_zero_only_for_equals():
    estimate = ppo.kl_k3(torch.tensor([-3.0, -0.1, 0.0, 0.1, 3.0]))
    assert estimate[2] == 0
    assert (estimate[[0, 1, 3, 4]] > 0).all()


def test_k3_estimates_kl():
    p, q = torch.tensor([0.7, 0.3]), torch.tensor([0.4, 0.6])
    exact = (p * (p / q).log()).sum()
    estimate = (p * ppo.kl_k3((q / p).log())).sum()
    assert estimate.item() == pytest.approx(exact.item(), abs=1e-6)


def test_whitening_ignores_padding():
    values = torch.tensor([[1.0, 3.0, 100.0], [5.0, 7.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    white = ppo.whiten(values, mask)
    assert ppo.masked_mean(white, mask).item() == pytest.approx(0, abs=1e-6)
    assert ppo.masked_mean(white**2, mask).item() == pytest.approx(1, abs=1e-4)
    assert white[0, 2] == 0
    kept = ppo.whiten(values, mask, shift_mean=False)
    assert ppo.masked_mean(kept, mask).item() == pytest.approx(5.0, abs=1e-4)


def test_an_adaptive_beta_moves_towards_its_target_and_a_fixed_one_stays():
    adaptive = ppo.KlController(0.1, target=1.0, horizon=100)
    adaptive.update(kl=3.0, completions=10)
    assert adaptive.beta == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    adaptive.update(kl=0.0, completions=10)
    assert adaptive.beta == pytest.approx(0.1 * 1.02 * 0.98)
    fixed = ppo.KlController(0.1, target=None, horizon=100)
    fixed.update(kl=100.0, completions=10)
    assert fixed.beta == 0.1
