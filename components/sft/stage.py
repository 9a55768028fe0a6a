"""Supervised fine-tuning: load_data, build_model, train, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.causal import CausalLM, Sample, Tables, build_causal_lm, join_samples, save_causal_lm
from components.common.chat import Chat
from components.common.evaluation import likelihood
from components.common.gate import check_improvement
from components.common.generation import Sampling, generate
from components.common.packed import train_packed
from components.common.stage import Job, Result
from components.sft.config import SftConfig


@dataclass(frozen=True)
class Data:
    """Packed conversations to train on; held-out ones to measure with, split into question and answer."""

    tables: Tables
    prompts: list[NDArray[np.int64]]
    answers: list[NDArray[np.int64]]


def run(job: Job[SftConfig]) -> Result:
    """Trains on conversations; measures loss and exact match on held-out ones, before and after."""
    data = load_data(job)
    model = build_model(job)
    before, samples_before = evaluate(job, model, data)
    train(job, model, data)
    after, samples_after = evaluate(job, model, data)
    return save(job, model, {"before": before, "after": after}, join_samples(samples_before, samples_after))


def load_data(job: Job[SftConfig]) -> Data:
    """Maps the dataset's tables into memory and splits held-out conversations before their last answer."""
    tables = Tables.load(job)
    prompts, answers = [], []
    for index in range(min(job.config.num_eval_prompts, len(tables.heldout))):
        ids, labels = tables.heldout.ids(index), tables.heldout.labels(index)
        start = int(np.flatnonzero(labels == -100)[-1]) + 1  # the last answer runs to the end of the sequence
        prompts.append(ids[:start])
        answers.append(ids[start:])
    return Data(tables, prompts, answers)


def build_model(job: Job[SftConfig]) -> CausalLM:
    """Loads the model and adds the adapter."""
    return build_causal_lm(job)


def train(job: Job[SftConfig], model: CausalLM, data: Data) -> None:
    """Trains the adapter, or all parameters."""
    train_packed(job, model.model, model.tokenizer, data.tables.train, model.policy)


def evaluate(job: Job[SftConfig], model: CausalLM, data: Data) -> tuple[dict[str, Any], list[Sample]]:
    """Loss on the held-out answers, and the share of greedy answers that equal the reference to the letter."""
    heldout = data.tables.heldout
    measured = likelihood(model.model, heldout, range(len(heldout)), model.policy, max_tokens=job.config.eval_tokens)
    metrics = {"loss": measured.loss, "perplexity": measured.perplexity, "tokens": measured.tokens}
    stop = (Chat(model.tokenizer).end_of_turn_id,)
    written = generate(model.model, data.prompts, Sampling(job.config.max_new_tokens, stop), model.policy)

    def text(ids: NDArray[np.int64]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    # An answer that does not stop by itself is wrong even if its beginning is right.
    right = [
        text(ids) == text(answer) and len(ids) > 0 and int(ids[-1]) in stop
        for ids, answer in zip(written, data.answers, strict=True)
    ]
    if right:
        metrics |= {"exact_match": sum(right) / len(right), "prompts": len(right)}
    samples = [
        {"prompt": model.tokenizer.decode(prompt), "reference": text(answer), "answer": text(ids)}
        for prompt, answer, ids in list(zip(data.prompts, data.answers, written, strict=True))[: job.config.num_samples]
    ]
    return metrics, samples


def save(job: Job[SftConfig], model: CausalLM, metrics: dict[str, Any], samples: list[Sample]) -> Result:
    """Writes adapter or model, tokenizer, curves and samples."""
    check_improvement(job.name, metrics, "loss", higher=False, required=job.config.require_improvement)
    return save_causal_lm(job, model, metrics, samples)
