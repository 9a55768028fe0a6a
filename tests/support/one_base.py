"""The rl stage's models and loop, built from plain folders, for tests and benchmarks that look inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from components.common.artifacts import Artifact
from components.common.generation import Sampling
from components.common.stage import Job, Plan
from components.common.store import DirectoryStore
from components.rl.build import build_roles
from components.rl.config import SPEC, RlConfig
from components.rl.experience import Setup, gather_experience, summary
from components.rl.ppo import KlController
from components.rl.roles import Roles
from components.rl.rollout import Prompts, prompt_rows, roll_out
from components.rl.update import Optimizers, update


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
        self.optimizers = Optimizers.build(roles, config)
        self.controller = KlController(config.beta, config.target_kl, config.kl_horizon)

    def step(self, step: int) -> Batch:
        """Rolls out, scores and updates."""
        config, setup, beta = self.config, self.setup, self.controller.beta
        count = config.rollout_batch_size // config.num_generations
        rows = prompt_rows(range(len(setup.prompts)), step, count, setup.seed)
        sampling = Sampling(config.max_completion_length, (self.stop,), config.temperature, setup.seed, step)
        rollout = roll_out(self.roles, setup.prompts, rows, sampling, config.num_generations, config.eval_tokens)
        experience = gather_experience(setup, rollout, beta, step)
        metrics = {**summary(experience, beta), "lr": self.optimizers.scheduler.get_last_lr()[0]}
        metrics |= update(self.roles, experience, self.optimizers, config, step, setup.seed)
        self.controller.update(metrics["kl"], len(rollout))
        return Batch(rollout.rows, rollout.completions, metrics)
