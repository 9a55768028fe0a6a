"""The rl stage's models and loop, built from plain folders, for tests and benchmarks that look inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from components.common.artifacts import Artifact
from components.common.stage import Job, Plan
from components.common.store import DirectoryStore
from components.rl.build import build_roles
from components.rl.config import SPEC, RlConfig
from components.rl.experience import Setup
from components.rl.loop import make_step
from components.rl.roles import Roles
from components.rl.rollout import Prompts
from components.rl.state import Learner


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
