"""Reinforcement learning: load_data, build_model, choose_prompts, train, save."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from components.common import distributed
from components.common.causal import Sample, join_samples
from components.common.chat import Chat
from components.common.curves import FILE as CURVES
from components.common.curves import Curves
from components.common.device import device_policy
from components.common.errors import InputError
from components.common.evaluation import paired_bootstrap
from components.common.gate import check_improvement
from components.common.generation import GREEDY, Sampling
from components.common.logs import Progress, say
from components.common.models import (
    float32_trainables,
    load_causal_lm,
    load_reward_model,
    lora_config,
    parameter_count,
    save_adapter,
    save_tokenizer,
)
from components.common.stage import Job, Result
from components.common.tokenizer import load_tokenizer
from components.common.trainer import seed_everything
from components.data.table import write_jsonl
from components.reward.parity import load_parity
from components.rl.config import RlConfig
from components.rl.experience import Worth, gather_experience, judge, summary, token_values
from components.rl.ppo import KlController
from components.rl.rewards import reward_functions
from components.rl.roles import Roles, load_adapter_weights, read_adapter_config
from components.rl.rollout import Prompts, Rollout, prompt_rows, roll_out
from components.rl.solve_rate import Chosen, choose
from components.rl.update import Optimizers, update

EVALUATION_STEP = -1  # part of the key of random numbers: evaluation draws others than any rollout


@dataclass(frozen=True)
class Data:
    """Prompts to roll out and prompts to measure with."""

    train: Prompts
    heldout: Prompts


@dataclass(frozen=True)
class Model:
    """The roles and the tokenizer they share."""

    roles: Roles
    tokenizer: Any
    stop: int

    def text(self, ids: NDArray[np.int64]) -> str:
        """A completion without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


@dataclass(frozen=True)
class Measured:
    """The policy on held-out prompts: one sample each, and a few greedy answers."""

    worth: Worth
    kl: NDArray[np.float64]
    ended: NDArray[np.bool_]
    samples: list[Sample]

    def metrics(self) -> dict[str, float]:
        """Means over the prompts."""
        values = {name: float(v.mean()) for name, v in self.worth.functions.items()}
        return {
            "reward": float(self.worth.scores.mean()),
            **values,
            "kl": float(self.kl.mean()),
            "ended": float(self.ended.mean()),
            "prompts": len(self.kl),
        }


def run(job: Job[RlConfig]) -> Result:
    """Improves the policy; measures reward, reward functions and KL on held-out prompts, before and after."""
    data = load_data(job)
    model = build_model(job)
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
    """Puts policy, critic and reward on one base.

    The reward model's adapter can stand on the base if it was trained on it; otherwise the merged reward model is
    loaded beside it.

    Raises:
        InputError: The reward model does not give the scores it gave when it was trained.
    """
    from peft import get_peft_model

    config = job.config
    policy = device_policy()
    distributed.start(policy.device)
    seed_everything(job.seed)
    tokenizer = load_tokenizer(job.folder("model"))
    base = load_causal_lm(job.folder("model"), policy)
    reward = reward_input(job)
    model = get_peft_model(base, lora_config(base, config.lora, "CAUSAL_LM"), adapter_name="policy")
    separate = None
    if job.plan.inputs[reward].kind == "adapter":
        model.add_adapter("reward", read_adapter_config(job.folder(reward)))
        head = load_adapter_weights(model, job.folder(reward), "reward")
        if head is None:
            raise InputError("the adapter has no score head", where=job.plan.inputs[reward].uri)
    else:
        separate = load_reward_model(job.folder(reward), policy)
        separate.requires_grad_(False)
        head = separate.score.weight.detach().float()
    value_head = nn.Linear(head.shape[1], 1)
    nn.init.zeros_(value_head.weight)
    nn.init.zeros_(value_head.bias)
    if separate is None and config.critic_init == "reward":
        model.add_adapter("critic", read_adapter_config(job.folder(reward)))
        load_adapter_weights(model, job.folder(reward), "critic")
        with torch.no_grad():
            value_head.weight.copy_(head)
    else:
        model.add_adapter("critic", lora_config(base, config.lora, "CAUSAL_LM"))
    _prepare(model, activation_checkpointing=config.activation_checkpointing)
    roles = Roles(
        model,
        value_head.to(policy.device),
        head.to(policy.device),
        policy,
        config.temperature,
        separate_reward=separate,
    )
    check_reward(job, roles, reward)
    return Model(roles, tokenizer, Chat(tokenizer).end_of_turn_id)


def reward_input(job: Job[RlConfig]) -> str:
    """Name of the input that judges: the adapter if it stands on this very base, else the merged reward model.

    Raises:
        InputError: The adapter stands on another base and no merged reward model was given.
    """
    reward = job.plan.inputs["reward"]
    base = job.plan.inputs["model"].digest
    if reward.kind == "reward_model" or reward.parent_digest("model") in (base, None):
        return "reward"
    if not job.has("reward_model"):
        raise InputError(
            "this reward adapter was trained on another base than the policy's",
            where=reward.uri,
            hint="give the merged reward model as --input reward=… or --input reward_model=…",
        )
    say(job.name, "the reward adapter stands on another base: using the merged reward model as a separate model")
    return "reward_model"


def check_reward(job: Job[RlConfig], roles: Roles, reward: str) -> None:
    """Scores the pairs that came with the reward model and compares."""
    from components.common.evaluation import score_sequences

    parity = load_parity(job.folder(reward))
    if parity is not None:
        scores = score_sequences(roles.scores, parity.sequences, roles.device_policy, job.config.eval_tokens)
        parity.check(scores, where=job.plan.inputs[reward].uri)


def choose_prompts(job: Job[RlConfig], model: Model, data: Data) -> Chosen:
    """Leaves out groups of prompts that the model always or never solves, if the settings ask for it."""
    sampling = Sampling(
        job.config.max_completion_length, (model.stop,), job.config.temperature, job.seed, EVALUATION_STEP
    )
    return choose(job.config, model.roles, data.train, data.heldout, sampling, model.text, job.seed)


def train(job: Job[RlConfig], model: Model, data: Data, chosen: Chosen) -> None:
    """Runs PPO."""
    config, roles = job.config, model.roles
    optimizers = Optimizers.build(roles, config)
    controller = KlController(config.beta, config.target_kl, config.kl_horizon)
    functions = reward_functions(config)
    progress = Progress(job.name, config.max_steps, every=config.logging_steps)
    tokens = 0
    with Curves(job.work, job.name) as curves:
        for step in range(config.max_steps):
            count = config.rollout_batch_size // config.num_generations
            rows = prompt_rows(chosen.train, step, count, job.seed)
            sampling = Sampling(config.max_completion_length, (model.stop,), config.temperature, job.seed, step)
            rollout = roll_out(roles, data.train, rows, sampling, config.num_generations, config.eval_tokens)
            experience = gather_experience(
                roles, data.train, rollout, model.text, functions, config, controller.beta, step, job.seed
            )
            values = {
                **summary(experience, controller.beta),
                "lr": optimizers.scheduler.get_last_lr()[0],
                **update(roles, experience, optimizers, config, step, job.seed),
            }
            controller.update(values["kl"], len(rollout))
            curves.write(step + 1, values)
            tokens += sum(map(len, rollout.sequences))
            shown = ("reward", *(f.name for f in functions), "kl", "policy_loss", "value_loss", "lr")
            progress.step(step + 1, {name: values[name] for name in shown}, tokens=tokens)


def evaluate(job: Job[RlConfig], model: Model, data: Data, chosen: Chosen) -> Measured:
    """Samples an answer to each held-out prompt, with the same random numbers every time, and judges it."""
    config, roles = job.config, model.roles
    rows = chosen.heldout[: config.num_eval_prompts]
    stop = (model.stop,)
    sampling = Sampling(config.max_completion_length, stop, config.temperature, job.seed, EVALUATION_STEP)
    rollout = roll_out(roles, data.heldout, rows, sampling, 1, config.eval_tokens)
    worth = judge(roles, data.heldout, rollout, model.text, reward_functions(config), config)
    greedy = Sampling(config.max_completion_length, stop, GREEDY)
    shown = roll_out(roles, data.heldout, rows[: config.num_samples], greedy, 1, config.eval_tokens)
    return Measured(worth, _kl(roles, rollout, config), rollout.ended, _samples(model, data.heldout, shown))


def save(job: Job[RlConfig], model: Model, chosen: Chosen, before: Measured, after: Measured) -> Result:
    """Writes the policy's adapter, tokenizer, curves and samples."""
    gain, low, high = paired_bootstrap(before.worth.scores, after.worth.scores, seed=job.seed)
    metrics: dict[str, Any] = {
        "before": before.metrics(),
        "after": after.metrics(),
        "reward_gain": {"mean": gain, "low": low, "high": high},
        "solve_rate": chosen.rates,
    }
    for name, values in after.worth.functions.items():
        gain, low, high = paired_bootstrap(before.worth.functions[name], values, seed=job.seed)
        metrics[f"{name}_gain"] = {"mean": gain, "low": low, "high": high}
    peft_model = model.roles.model
    metrics["trainable_parameters"] = sum(p.numel() for role in ("policy", "critic") for p in _own(model.roles, role))
    metrics["base_parameters"] = parameter_count(peft_model.get_base_model())
    check_improvement(job.name, metrics, "reward", higher=True, required=job.config.require_improvement)
    tokenizer: dict[str, str] = {}
    if distributed.is_main():
        save_adapter(peft_model, job.out, base=job.plan.parents()["model"].uri, adapter="policy")
        tokenizer = save_tokenizer(model.tokenizer, job.out)
        shutil.copyfile(job.work / CURVES, job.out / CURVES)
        write_jsonl(job.out / "samples.jsonl", join_samples(before.samples, after.samples))
    return Result("adapter", metrics, tokenizer)


def _own(roles: Roles, role: Any) -> list[nn.Parameter]:
    return roles.parameters(role)


def _prepare(model: Any, *, activation_checkpointing: bool) -> None:
    """No dropout in any role, float32 adapters, no gradients for the frozen reward."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    float32_trainables(model)
    model.train(activation_checkpointing)  # transformers checkpoints activations in training mode only
    if activation_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()


def _kl(roles: Roles, rollout: Rollout, config: RlConfig) -> NDArray[np.float64]:
    rows = [list(part) for part in np.array_split(range(len(rollout)), -(-len(rollout) // 16))]
    mine = distributed.shard(rows)
    policy = token_values(roles, rollout, mine, "policy", roles.logprobs)
    reference = token_values(roles, rollout, mine, "reference", roles.logprobs)
    log_ratio: NDArray[np.float64] = ((policy - reference) * rollout.mask).sum(1).double().numpy()
    return log_ratio


def _samples(model: Model, prompts: Prompts, rollout: Rollout) -> list[Sample]:
    return [
        {"prompt": prompts.question(row), "answer": model.text(ids), "reference": str(_reference(prompts, row))}
        for row, ids in zip(rollout.rows, rollout.completions, strict=True)
    ]


def _reference(prompts: Prompts, row: int) -> Any:
    columns = prompts.columns(row)
    return columns.get("answer", columns.get("reference", ""))
