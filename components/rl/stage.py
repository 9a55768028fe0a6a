"""Reinforcement learning: load_data, build_model, fit, choose_prompts, train, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common import distributed
from components.common.causal import join_samples
from components.common.chat import Chat
from components.common.curves import copy_curves
from components.common.generation import Sampling
from components.common.heldout import gain_interval
from components.common.saving import save_adapter, save_tokenizer
from components.common.stage import Job, Result
from components.common.tokenizer import load_tokenizer
from components.data.table import write_jsonl
from components.rl.build import build_roles
from components.rl.config import RlConfig
from components.rl.experience import Setup
from components.rl.fit import fitted
from components.rl.loop import learn
from components.rl.measure import EVALUATION_STEP, Measured, measure
from components.rl.rewards import reward_functions
from components.rl.roles import Roles
from components.rl.rollout import Prompts
from components.rl.solve_rate import Chosen, choose


@dataclass(frozen=True)
class Data:
    """Prompts to roll out and prompts to measure with."""

    train: Prompts
    heldout: Prompts


@dataclass(frozen=True)
class Model:
    """The roles, the tokenizer they share, and the token that ends a turn."""

    roles: Roles
    tokenizer: Any
    stop: int

    def text(self, ids: NDArray[np.int64]) -> str:
        """A completion without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def run(job: Job[RlConfig]) -> Result:
    """Improves the policy; measures reward, reward functions and KL on held-out prompts, before and after."""
    data = load_data(job)
    model = build_model(job)
    job = fit(job, model, data)
    chosen = choose_prompts(job, model, data)
    before = evaluate(job, model, data, chosen)
    train(job, model, data, chosen)
    after = evaluate(job, model, data, chosen)
    return save(job, model, chosen, before, after)


def load_data(job: Job[RlConfig]) -> Data:
    """Reads the prompts."""
    folder = job.folder("dataset")
    return Data(Prompts.load(folder / "train"), Prompts.load(folder / "heldout"))


def build_model(job: Job[RlConfig]) -> Model:
    """Puts policy, critic and reward on one base."""
    tokenizer = load_tokenizer(job.folder("model"))
    return Model(build_roles(job), tokenizer, Chat(tokenizer).end_of_turn_id)


def fit(job: Job[RlConfig], model: Model, data: Data) -> Job[RlConfig]:
    """Computes fewer completions at once where the GPU has no room for as many as the settings say."""
    lengths = [int(length) for part in (data.train, data.heldout) for length in part.table.lengths]
    return fitted(job, model.roles, lengths)


def choose_prompts(job: Job[RlConfig], model: Model, data: Data) -> Chosen:
    """Leaves out groups of prompts that the model always or never solves, if the settings ask for it."""
    config = job.config
    sampling = Sampling(config.max_completion_length, (model.stop,), config.temperature, job.seed, EVALUATION_STEP)
    return choose(config, model.roles, data.train, data.heldout, sampling, model.text, job.seed)


def train(job: Job[RlConfig], model: Model, data: Data, chosen: Chosen) -> None:
    """Learns from the chosen training prompts."""
    learn(job, _setup(job, model, data.train), chosen.train, model.stop)


def evaluate(job: Job[RlConfig], model: Model, data: Data, chosen: Chosen) -> Measured:
    """Samples an answer to each held-out prompt and has it judged."""
    return measure(_setup(job, model, data.heldout), chosen.heldout[: job.config.num_eval_prompts], model.stop)


def save(job: Job[RlConfig], model: Model, chosen: Chosen, before: Measured, after: Measured) -> Result:
    """Writes the policy's adapter, tokenizer, curves and samples."""
    roles = model.roles
    metrics: dict[str, Any] = {
        "before": before.metrics(),
        "after": after.metrics(),
        "reward_gain": gain_interval(before.worth.scores, after.worth.scores, seed=job.seed),
        "solve_rate": chosen.rates,
        "trainable_parameters": sum(p.numel() for role in roles.trained for p in roles.parameters(role)),
    }
    for name, values in after.worth.functions.items():
        metrics[f"{name}_gain"] = gain_interval(before.worth.functions[name], values, seed=job.seed)
    tokenizer: dict[str, str] = {}
    if distributed.is_main():
        save_adapter(roles.model, job.out, base=job.plan.parents()["model"].uri, adapter="policy")
        tokenizer = save_tokenizer(model.tokenizer, job.out)
        copy_curves(job.work, job.out)
        write_jsonl(job.out / "samples.jsonl", join_samples(before.samples, after.samples))
    return Result("adapter", metrics, tokenizer)


def _setup(job: Job[RlConfig], model: Model, prompts: Prompts) -> Setup:
    return Setup(model.roles, prompts, model.text, reward_functions(job.config), job.config, job.seed)
