"""Final evaluation: load_data, build_model, measure, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.common import distributed
from components.common.chat import Chat
from components.common.device import DevicePolicy, device_policy
from components.common.errors import UserError
from components.common.evaluation import evaluating, score_sequences
from components.common.forward_pass import last_token_scores
from components.common.functions import load_function
from components.common.generation import Sampling, generate_shared
from components.common.heldout import gain_interval
from components.common.logs import say
from components.common.models import load_causal_lm, load_reward_model
from components.common.stage import Job, Result
from components.common.tokenizer import load_tokenizer
from components.data.table import write_jsonl
from components.evaluate.config import EvaluateConfig
from components.reward.parity import load_parity
from components.rl.rewards import call_function
from components.rl.rollout import Prompts


@dataclass(frozen=True)
class Answers:
    """A model's greedy answers to the held-out prompts, and what they are worth by each judge."""

    texts: list[str]
    values: dict[str, NDArray[np.float64]]


def run(job: Job[EvaluateConfig]) -> Result:
    """Answers the held-out prompts with the final model and the base, and compares."""
    prompts = load_data(job)
    policy = device_policy()
    distributed.start(policy.device)
    rows = list(range(min(job.config.num_eval_prompts, len(prompts))))
    names = [name for name in ("before", "model") if job.has(name)]
    answers = {name: measure(job, prompts, rows, name, policy) for name in names}
    return save(job, prompts, rows, answers)


def load_data(job: Job[EvaluateConfig]) -> Prompts:
    """Reads the held-out prompts."""
    return Prompts.load(job.folder("dataset") / "heldout")


def measure(job: Job[EvaluateConfig], prompts: Prompts, rows: list[int], name: str, policy: DevicePolicy) -> Answers:
    """Answers the prompts with one model and has the answers judged."""
    tokenizer = load_tokenizer(job.folder(name))
    model = load_causal_lm(job.folder(name), policy, load_in_4bit=job.config.load_in_4bit)
    sampling = Sampling(job.config.max_completion_length, (Chat(tokenizer).end_of_turn_id,))
    ids = [prompts.table.ids(row) for row in rows]
    written = generate_shared(model, ids, sampling, policy, max_tokens=job.config.eval_tokens)
    del model
    texts = [str(tokenizer.decode(completion, skip_special_tokens=True)).strip() for completion in written]
    values = {}
    for wanted in job.config.reward_functions:
        values[wanted.name] = call_function(
            load_function(wanted.function),
            wanted.name,
            [prompts.question(row) for row in rows],
            texts,
            [prompts.columns(row) for row in rows],
        )
    if job.has("reward"):
        sequences = [np.concatenate(pair) for pair in zip(ids, written, strict=True)]
        values["reward"] = score(job, sequences, policy)
    return Answers(texts, values)


def score(job: Job[EvaluateConfig], sequences: list[NDArray[np.int64]], policy: DevicePolicy) -> NDArray[np.float64]:
    """Scores sequences with the merged reward model, after checking that it still scores as it was trained to."""
    model = load_reward_model(job.folder("reward"), policy, load_in_4bit=job.config.load_in_4bit)
    head = model.score.weight.detach()

    def scores(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return last_token_scores(model, ids, mask, head)

    parity = load_parity(job.folder("reward"))
    with evaluating(model):
        if parity is not None:
            stored = score_sequences(scores, parity.sequences, policy, job.config.eval_tokens)
            parity.check(stored, where=job.plan.inputs["reward"].uri, quantised=job.config.load_in_4bit)
        return score_sequences(scores, sequences, policy, job.config.eval_tokens)


def save(job: Job[EvaluateConfig], prompts: Prompts, rows: list[int], answers: dict[str, Answers]) -> Result:
    """Writes answers side by side and the comparison; fails if a gate is missed.

    Raises:
        UserError: A gate's metric is below its least value.
    """
    metrics: dict[str, Any] = {"prompts": len(rows)}
    for name, after in answers["model"].values.items():
        metrics[name] = {"after": float(after.mean())}
        if "before" in answers:
            before = answers["before"].values[name]
            gain = gain_interval(before, after, seed=job.seed)
            metrics[name] |= {"before": float(before.mean()), "gain": gain}
            shown = f"{name} {before.mean():.3f} → {after.mean():.3f}"
            say(job.name, f"{shown} (gain {gain['low']:+.3f} … {gain['high']:+.3f})")
    check_gates(job.config.gates, metrics)
    if distributed.is_main():
        samples = [
            {
                "prompt": prompts.question(row),
                "reference": prompts.reference(row),
                "answer": answers["model"].texts[i],
                **({"before": answers["before"].texts[i]} if "before" in answers else {}),
            }
            for i, row in enumerate(rows[: job.config.num_samples])
        ]
        write_jsonl(job.out / "samples.jsonl", samples)
    return Result("evaluation", metrics)


def check_gates(gates: dict[str, float], metrics: dict[str, Any]) -> None:
    """Compares metrics with their least values.

    Raises:
        UserError: Naming every gate that is missed or names no metric.
    """
    missed = []
    for path, least in gates.items():
        value: Any = metrics
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, (int, float)) or value < least:
            missed.append(f"{path} is {value if value is None else f'{value:.4g}'}, at least {least:g} is asked for")
    if missed:
        raise UserError("; ".join(missed), where="evaluate.gates", hint="train longer, or lower the gate")
