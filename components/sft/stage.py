"""Supervised fine-tuning: load_data, build_model, train, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from components.common.answers import Answers, Exchange, answer_exchanges
from components.common.causal import CausalLM, Tables, build_causal_lm, join_samples, save_causal_lm
from components.common.evaluation import likelihood
from components.common.heldout import Likelihood, gain_interval
from components.common.packed import train_packed
from components.common.stage import Job, Result
from components.data.table import read_jsonl
from components.sft.config import SftConfig


@dataclass(frozen=True)
class Data:
    """Packed conversations to train on; held-out ones to measure with, split before their last answer."""

    tables: Tables
    exchanges: list[Exchange]


@dataclass(frozen=True)
class Measured:
    """A model on the held-out conversations: the likelihood of all their answers, and its own to their prompts."""

    likelihood: Likelihood
    answers: Answers

    def metrics(self) -> dict[str, float]:
        """Loss, perplexity and exact match."""
        return {
            "loss": self.likelihood.loss,
            "perplexity": self.likelihood.perplexity,
            "tokens": self.likelihood.tokens,
            **self.answers.metrics(),
        }


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
    rows = read_jsonl(job.folder("dataset") / "heldout" / "rows.jsonl")
    exchanges = []
    for index in range(min(job.config.num_eval_prompts, len(tables.heldout))):
        ids, labels = tables.heldout.ids(index), tables.heldout.labels(index)
        start = int(np.flatnonzero(labels == -100)[-1]) + 1  # the last answer runs to the end of the sequence
        exchanges.append(Exchange(ids[:start], ids[start:], rows[index]["messages"][-2]["content"]))
    return Data(tables, exchanges)


def build_model(job: Job[SftConfig]) -> CausalLM:
    """Loads the model and adds the adapter."""
    return build_causal_lm(job)


def train(job: Job[SftConfig], model: CausalLM, data: Data) -> None:
    """Trains the adapter, or all parameters."""
    train_packed(job, model.model, data.tables, model.policy)


def evaluate(job: Job[SftConfig], model: CausalLM, data: Data) -> Measured:
    """Measures the likelihood of the held-out answers and answers the held-out prompts."""
    config, heldout = job.config, data.tables.heldout
    measured = likelihood(model.model, heldout, range(len(heldout)), model.policy, max_tokens=config.eval_tokens)
    answers = answer_exchanges(
        model, data.exchanges, config.max_new_tokens, config.num_samples, max_tokens=config.eval_tokens
    )
    return Measured(measured, answers)


def save(job: Job[SftConfig], model: CausalLM, before: Measured, after: Measured) -> Result:
    """Writes adapter or model, tokenizer, curves and samples."""
    metrics: dict[str, Any] = {"before": before.metrics(), "after": after.metrics()}
    if len(after.answers.right):
        metrics["exact_match_gain"] = gain_interval(before.answers.right, after.answers.right, seed=job.seed)
    return save_causal_lm(job, model, metrics, join_samples(before.answers.samples, after.answers.samples))
