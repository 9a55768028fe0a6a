"""PPO on one base is PPO on four separate models, to the last bit, in float32 and one process."""

import pytest
import torch

from components.rl.config import RlConfig
from tests.support import one_base, plain_ppo
from tests.support.four_models import FourModels
from tests.support.models import FAMILIES, save_reward_adapter, tiny_model

BATCHES = 10
CONFIG = RlConfig(
    max_steps=BATCHES,
    rollout_batch_size=16,
    num_generations=2,
    num_mini_batches=2,
    num_ppo_epochs=2,
    per_device_train_batch_size=3,  # ragged: minibatches of 8 are computed as 3 + 3 + 2
    max_completion_length=12,
    learning_rate=2e-3,
    critic_learning_rate=2e-3,
    temperature=0.9,
    gamma=0.99,
    target_kl=0.5,
    kl_horizon=200,
    warmup_ratio=0.1,
)
TEXTS = ["What did the cow say?", "the", "cow pig duck hen owl frog", "said oink in the tower", "owl", "baa moo said"]


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return one_base.make_prompts(tokenizer, TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_base_equals_four_models_bit_by_bit(family, tokenizer, prompts, tmp_path):
    tiny_model(family, tokenizer).save_pretrained(tmp_path / "base")
    save_reward_adapter(tmp_path / "base", tmp_path / "reward", tokenizer.pad_token_id)
    stop = tokenizer.eos_token_id

    roles = one_base.load_roles(tmp_path / "base", tmp_path / "reward", CONFIG, seed=5, scratch=tmp_path)
    ours = one_base.Trainer(roles, prompts, CONFIG, seed=5, stop=stop)
    bases = dict.fromkeys(("policy", "reference", "critic", "reward"), tmp_path / "base")
    four = FourModels.load(bases, tmp_path / "reward", CONFIG, seed=5)
    theirs = plain_ppo.Trainer(four, prompts, CONFIG, seed=5, stop=stop)
    start = {role: [p.detach().clone() for p in roles.parameters(role)] for role in ("policy", "critic")}
    for step in range(BATCHES):
        one, other = ours.step(step), theirs.step(step)
        assert one.rows == other.rows
        assert [c.tolist() for c in one.completions] == [c.tolist() for c in other.completions]
        assert one.metrics == other.metrics
        for role, parameters in four.trained().items():
            own = roles.parameters(role)
            assert len(own) == len(parameters) > 0
            assert all(torch.equal(a, b) for a, b in zip(own, parameters, strict=True))
    for role, parameters in start.items():
        assert all(not torch.equal(a, b) for a, b in zip(roles.parameters(role), parameters, strict=True))
