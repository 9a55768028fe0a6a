"""What PPO has learnt goes into a checkpoint and comes back, the scaler of float16 among it."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from tests.support import one_base
from tests.support.models import save_reward_adapter, tiny_model

CONFIG = one_base.SMALL
# The largest float32 is 3.4e38: some first steps overflow, and later ones let the scale grow again.
SCALE = 2.0**125


@pytest.fixture
def make(tokenizer, tmp_path):
    """Makes trainers that have learnt nothing, whose scaler is on or off."""
    prompts = one_base.make_prompts(tokenizer)
    tiny_model("llama", tokenizer).save_pretrained(tmp_path / "base")
    save_reward_adapter(tmp_path / "base", tmp_path / "reward", tokenizer.pad_token_id)

    def trainer(*, scales: bool) -> one_base.Trainer:
        roles = one_base.load_roles(tmp_path / "base", tmp_path / "reward", CONFIG, seed=5, scratch=tmp_path)
        made = one_base.Trainer(roles, prompts, CONFIG, seed=5, stop=tokenizer.eos_token_id)
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=3, enabled=scales)
        optimizers = dataclasses.replace(made.learner.optimizers, scaler=scaler)
        made.learner = dataclasses.replace(made.learner, optimizers=optimizers)
        return made

    return trainer


def weights(trainer):
    return [p.detach().clone() for role in trainer.roles.trained for p in trainer.roles.parameters(role)]


def test_a_run_under_a_gradient_scaler_goes_on_exactly(make, tmp_path):
    whole = make(scales=True)
    metrics = [whole.step(step).metrics for step in range(CONFIG.max_steps)]
    scales = [values["loss_scale"] for values in metrics]
    assert any(values["skipped"] for values in metrics)
    assert any(later > earlier for earlier, later in itertools.pairwise(scales))

    trackers = set()
    for stop in (2, 3):  # the tracker of growth is another at each
        first, second = make(scales=True), make(scales=True)
        for step in range(stop):
            first.step(step)
        first.learner.save(tmp_path)
        second.learner.load(tmp_path)
        kept = second.learner.optimizers.scaler.state_dict()
        assert kept == first.learner.optimizers.scaler.state_dict()
        assert kept["scale"] != SCALE
        trackers.add(kept["_growth_tracker"])
        rest = [second.step(step).metrics for step in range(stop, CONFIG.max_steps)]
        assert repr(rest) == repr(metrics[stop:])  # as text, because a skipped step's norm is NaN
        assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(whole), strict=True))
        assert second.learner.optimizers.scaler.state_dict() == whole.learner.optimizers.scaler.state_dict()
    assert len(trackers) == 2


@pytest.mark.parametrize("scales", [True, False])
def test_a_run_goes_on_on_another_kind_of_device(make, tmp_path, scales):
    """From a GPU with float16 to one with bfloat16, or back: one of them needs a scaler, the other none."""
    first, second = make(scales=scales), make(scales=not scales)
    first.step(0)
    first.learner.save(tmp_path)
    second.learner.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(first), strict=True))
    assert second.learner.optimizers.scheduler.get_last_lr() == first.learner.optimizers.scheduler.get_last_lr()
    second.step(1)
