"""The rl stage's models and loop, built from plain folders, for tests and benchmarks that look inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.artifacts import Artifact
from components.common.directory_store import DirectoryStore
from components.common.stage import Job, Plan
from components.data.table import build_table
from components.data.tokenise import Tokens
from components.rl.build import build_roles
from components.rl.config import SPEC, RlConfig
from components.rl.experience import Setup
from components.rl.loop import make_step
from components.rl.roles import Roles
from components.rl.rollout import Prompts
from components.rl.state import Learner

# A loop in which everything happens that can, in seconds.
SMALL = RlConfig(
    max_steps=6,
    rollout_batch_size=8,
    num_mini_batches=2,
    num_ppo_epochs=1,
    per_device_train_batch_size=3,
    max_completion_length=6,
    learning_rate=2e-3,
    critic_learning_rate=2e-3,
    target_kl=0.5,
    kl_horizon=200,
)
TEXTS = ("What did the cow say?", "the", "cow pig duck hen owl frog", "said oink in the tower")


def make_prompts(tokenizer: Any, texts: Sequence[str] = TEXTS) -> Prompts:
    """Prompts of one turn each."""
    rows = [Tokens(np.asarray(tokenizer(text)["input_ids"])) for text in texts]
    return Prompts(build_table(rows, len(tokenizer)), [{"messages": [{"role": "user", "content": t}]} for t in texts])


@dataclass(frozen=True)
class Batch:
    """What a rollout batch came to: its prompts, its completions, its metrics."""

    rows: list[int]
    completions: list[NDArray]
    metrics: dict[str, float]


def load_roles(base: Path, reward_adapter: Path, config: RlConfig, seed: int, scratch: Path) -> Roles:
    """Builds the roles as the stage does, from a model folder and a reward adapter."""
    inputs = {
        "model": Artifact(str(base), base, "", "model"),
        "reward": Artifact(str(reward_adapter), reward_adapter, "", "adapter"),
    }
    plan = Plan(SPEC, config, seed, inputs, DirectoryStore(scratch), "", "")
    return build_roles(Job(plan, scratch, scratch))


class Trainer:
    """The loop of the stage without its files: no curves, no checkpoints, no reward functions.

    Args:
        roles: The models.
        prompts: Prompts as token ids.
        config: Settings of the rl stage.
        seed: Of sampling and shuffling.
        stop: The token that ends a completion.
    """

    def __init__(self, roles: Roles, prompts: Prompts, config: RlConfig, seed: int, stop: int) -> None:
        self.roles, self.config, self.stop = roles, config, stop
        self.setup = Setup(roles, prompts, lambda ids: "", (), config, seed)
        self.learner = Learner.build(roles, config)

    def step(self, step: int) -> Batch:
        """Rolls out, scores and updates."""
        experience, metrics = make_step(self.setup, self.learner, range(len(self.setup.prompts)), self.stop, step)
        return Batch(experience.rollout.rows, experience.rollout.completions, metrics)
