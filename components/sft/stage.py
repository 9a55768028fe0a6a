"""Supervised fine-tuning: load_data, build_model, train, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.causal import CausalLM, Sample, Tables, build_causal_lm, join_samples, save_causal_lm
from components.common.chat import Chat
from components.common.evaluation import Likelihood, gain_interval, likelihood
from components.common.generation import Sampling, generate_shared
from components.common.packed import train_packed
from components.common.stage import Job, Result
from components.data.table import read_jsonl
from components.sft.config import SftConfig


@dataclass(frozen=True)
class Data:
    """Packed conversations to train on; held-out ones to measure with, split into question and answer.

    Attributes:
        tables: Both sides of the dataset.
        prompts: Token ids of each held-out conversation up to its last answer.
        answers: Token ids of that answer.
        questions: Text of the turn before it.
    """

    tables: Tables
    prompts: list[NDArray[np.int64]]
    answers: list[NDArray[np.int64]]
    questions: list[str]


@dataclass(frozen=True)
class Measured:
    """A model on the held-out conversations.

    Attributes:
        likelihood: Of all their answers.
        right: Whether the greedy answer to each prompt is the reference, to the letter and ended by itself.
        samples: A few of the answers.
    """

    likelihood: Likelihood
    right: NDArray[np.float64]
    samples: list[Sample]

    def metrics(self) -> dict[str, float]:
        """Loss, perplexity and exact match."""
        metrics = {
            "loss": self.likelihood.loss,
            "perplexity": self.likelihood.perplexity,
            "tokens": self.likelihood.tokens,
            "prompts": len(self.right),
        }
        return {**metrics, "exact_match": float(self.right.mean())} if len(self.right) else metrics


def run(job: Job[SftConfig]) -> Result:
    """Trains on conversations; measures loss and exact match on held-out ones, before and after."""
    data = load_data(job)
    model = build_model(job)
    before = evaluate(job, model, data)
    train(job, model, data)
    after = evaluate(job, model, data)
    return save(job, model, before, after)


def load_data(job: Job[SftConfig]) -> Data:
    """Maps the dataset's tables into memory and splits held-out conversations before their last answer."""
    tables = Tables.load(job)
    prompts, answers = [], []
    for index in range(min(job.config.num_eval_prompts, len(tables.heldout))):
        ids, labels = tables.heldout.ids(index), tables.heldout.labels(index)
        start = int(np.flatnonzero(labels == -100)[-1]) + 1  # the last answer runs to the end of the sequence
        prompts.append(ids[:start])
        answers.append(ids[start:])
    rows = read_jsonl(job.folder("dataset") / "heldout" / "rows.jsonl")[: len(prompts)]
    return Data(tables, prompts, answers, [row["messages"][-2]["content"] for row in rows])


def build_model(job: Job[SftConfig]) -> CausalLM:
    """Loads the model and adds the adapter."""
    return build_causal_lm(job)


def train(job: Job[SftConfig], model: CausalLM, data: Data) -> None:
    """Trains the adapter, or all parameters."""
    train_packed(job, model.model, data.tables.train, model.policy)


def evaluate(job: Job[SftConfig], model: CausalLM, data: Data) -> Measured:
    """Measures the likelihood of the held-out answers and answers the held-out prompts."""
    heldout = data.tables.heldout
    measured = likelihood(model.model, heldout, range(len(heldout)), model.policy, max_tokens=job.config.eval_tokens)
    stop = (Chat(model.tokenizer).end_of_turn_id,)
    written = generate_shared(model.model, data.prompts, Sampling(job.config.max_new_tokens, stop), model.policy)

    def text(ids: NDArray[np.int64]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    # An answer that does not stop by itself is wrong even if its beginning is right.
    right = [
        text(ids) == text(answer) and len(ids) > 0 and int(ids[-1]) in stop
        for ids, answer in zip(written, data.answers, strict=True)
    ]
    samples = [
        {"prompt": question, "reference": text(answer), "answer": text(ids)}
        for question, answer, ids in zip(data.questions, data.answers, written, strict=True)
    ]
    return Measured(measured, np.asarray(right, np.float64), samples[: job.config.num_samples])


def save(job: Job[SftConfig], model: CausalLM, before: Measured, after: Measured) -> Result:
    """Writes adapter or model, tokenizer, curves and samples."""
    metrics: dict[str, Any] = {"before": before.metrics(), "after": after.metrics()}
    if len(after.right):
        metrics["exact_match_gain"] = gain_interval(before.right, after.right, seed=job.seed)
    return save_causal_lm(job, model, metrics, join_samples(before.samples, after.samples))
