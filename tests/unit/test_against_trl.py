"""GRPO's loss is TRL's, gradient and all; RLOO's gradient is, while the policy is the one that sampled."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

from components.common.generation import Sampling
from components.rl import update
from components.rl.experience import gather_experience
from components.rl.rollout import roll_out
from tests.support import one_base
from tests.support.models import save_reward_adapter, tiny_model

GENERATIONS = 4
BASIC = one_base.SMALL.model_copy(
    update={"num_generations": GENERATIONS, "rollout_batch_size": 16, "beta": 0.3, "target_kl": None, "cliprange": 0.1}
)
SHARED = {
    "num_generations": GENERATIONS,
    "epsilon": BASIC.cliprange,
    "beta": BASIC.beta,
    "per_device_train_batch_size": BASIC.rollout_batch_size,
    "max_completion_length": BASIC.max_completion_length,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
}


@pytest.fixture
def sampled(tokenizer, tmp_path):
    """Has a policy that has learnt a little write completions, and TRL's trainer of the same model beside it."""

    def sample(algorithm, trainer, config):
        tiny_model("llama", tokenizer).save_pretrained(tmp_path / "base")
        save_reward_adapter(tmp_path / "base", tmp_path / "reward", tokenizer.pad_token_id)
        ours = BASIC.model_copy(update={"algorithm": algorithm})
        roles = one_base.load_roles(tmp_path / "base", tmp_path / "reward", ours, seed=5, scratch=tmp_path)
        learnt = one_base.Trainer(roles, one_base.make_prompts(tokenizer), ours, 5, tokenizer.eos_token_id)
        shift(roles, 0.1)
        sampling = Sampling(ours.max_completion_length, (tokenizer.eos_token_id,), 1.0, 5, 0)
        rollout = roll_out(roles, learnt.setup.prompts, range(4), sampling, GENERATIONS, ours.eval_tokens)
        experience = gather_experience(learnt.setup, rollout, ours.beta, 0)
        dataset = Dataset.from_list([{"prompt": "the"}])
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        theirs = trainer(base, lambda **_: [], config, dataset, processing_class=tokenizer)
        return roles, experience, theirs

    return sample


def shift(roles, size):
    """Moves the policy, always by the same."""
    generator = torch.Generator().manual_seed(1)
    for parameter in roles.parameters("policy"):
        parameter.data += size * torch.randn(parameter.shape, generator=generator)


def our_gradients(roles, experience, config):
    """What is worth watching, the loss among it, and the gradient of all completions; divided by their tokens."""
    learner = update.Optimizers.build(roles, config)
    pieces = [list(range(i, i + 3)) for i in range(0, 15, 3)] + [[15]]
    tokens = float(experience.rollout.mask.sum())
    sums = update._policy_gradients(roles, experience, learner.scaler, config, pieces, tokens)
    return sums, [p.grad.clone() for p in roles.parameters("policy")]


def their_gradients(roles, experience, trainer, **known):
    """The same by TRL's trainer, of our policy."""
    rollout = experience.rollout
    width = max(len(ids) for ids in rollout.prompts)
    left = [torch.tensor([0] * (width - len(ids)) + ids.tolist()) for ids in rollout.prompts]
    right = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in rollout.completions], batch_first=True)
    inputs = {
        "prompt_ids": torch.stack(left),
        "prompt_mask": torch.stack([torch.arange(width) >= width - len(ids) for ids in rollout.prompts]).long(),
        "completion_ids": right,
        "completion_mask": rollout.mask.long(),
        **known,
    }
    for parameter in roles.parameters("policy"):
        parameter.grad = None
    trainer.current_gradient_accumulation_steps = 1
    # What the trainer does to its own model.
    add_fused_lm_head(roles.model.get_base_model(), temperature=1.0, outputs=("log_probs", "entropy"))
    with roles.use("policy") as model:
        loss = trainer._compute_loss(model, inputs)
        loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in roles.parameters("policy")]


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_the_loss_of_grpo(sampled, tmp_path):
    # The KL as the paper has it, which is not what TRL does by default: it weighs it by the ratio.
    form = {"loss_type": "bnpo", "use_bias_correction_kl": False}
    settings = GRPOConfig(str(tmp_path), num_iterations=2, **form, **SHARED)
    roles, experience, trainer = sampled("grpo", GRPOTrainer, settings)
    shift(roles, 0.1)
    config = BASIC.model_copy(update={"algorithm": "grpo"})
    sums, gradients = our_gradients(roles, experience, config)
    loss, their = their_gradients(
        roles,
        experience,
        trainer,
        advantages=experience.advantages[:, 0],
        old_per_token_logps=experience.logprobs,
        ref_per_token_logps=experience.reference,
    )
    assert 0 < sums["clipped"] < 1
    assert float(sums["policy_loss"]) == pytest.approx(loss, rel=1e-5)
    assert (flat(gradients) - flat(their)).norm() < 1e-5 * flat(their).norm()


def test_the_direction_of_rloo(sampled, tmp_path):
    """TRL compares whole completions, ours single tokens; before the first step both ratios are 1."""
    settings = RLOOConfig(str(tmp_path), **SHARED)
    roles, experience, trainer = sampled("rloo", RLOOTrainer, settings)
    config = BASIC.model_copy(update={"algorithm": "rloo"})
    _, gradients = our_gradients(roles, experience, config)
    old = (experience.logprobs * experience.rollout.mask).sum(1)
    _, their = their_gradients(roles, experience, trainer, advantages=experience.advantages[:, 0], old_logps=old)
    tokens = float(experience.rollout.mask.sum())
    completions = len(experience.rollout)
    ours, theirs = flat(gradients) * tokens, flat(their) * completions
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
