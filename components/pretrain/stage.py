"""Continued pre-training: load_data, build_model, train, save."""

from __future__ import annotations

from typing import Any

from components.common.causal import CausalLM, Sample, Tables, build_causal_lm, join_samples, save_causal_lm
from components.common.errors import UserError
from components.common.evaluation import likelihood
from components.common.generation import Sampling, generate_shared
from components.common.packed import train_packed
from components.common.stage import Job, Result
from components.pretrain.config import PretrainConfig

SAMPLE_TOKENS = 32  # of a held-out document: half are given, half are continued


def run(job: Job[PretrainConfig]) -> Result:
    """Trains on the training documents and measures perplexity on the held-out ones, before and after."""
    data = load_data(job)
    model = build_model(job)
    before, samples_before = evaluate(job, model, data)
    train(job, model, data)
    after, samples_after = evaluate(job, model, data)
    return save(job, model, {"before": before, "after": after}, join_samples(samples_before, samples_after))


def load_data(job: Job[PretrainConfig]) -> Tables:
    """Maps the dataset's tables into memory."""
    return Tables.load(job)


def build_model(job: Job[PretrainConfig]) -> CausalLM:
    """Loads the base, or makes a new one of its shape, and adds the adapter.

    Raises:
        UserError: A model from scratch was to be trained with LoRA, which cannot teach random weights anything.
    """
    scratch = job.config.init == "scratch"
    if scratch and job.config.lora is not None:
        raise UserError(
            "LoRA on random weights learns nothing", where="pretrain.init=scratch", hint="set pretrain.lora: null"
        )
    return build_causal_lm(job, random_weights=scratch)


def train(job: Job[PretrainConfig], model: CausalLM, data: Tables) -> None:
    """Trains the adapter, or all parameters."""
    train_packed(job, model.model, data, model.policy)


def evaluate(job: Job[PretrainConfig], model: CausalLM, data: Tables) -> tuple[dict[str, Any], list[Sample]]:
    """Perplexity on the held-out documents and a few continuations."""
    heldout = data.heldout
    measured = likelihood(model.model, heldout, range(len(heldout)), model.policy, max_tokens=job.config.eval_tokens)
    starts = [heldout.ids(i)[:SAMPLE_TOKENS] for i in range(min(job.config.num_samples, len(heldout)))]
    halves = [(ids[: len(ids) // 2], ids[len(ids) // 2 :]) for ids in starts if len(ids) >= 2]
    sampling = Sampling(SAMPLE_TOKENS // 2, stop=(model.tokenizer.eos_token_id,))
    given_halves = [given for given, _ in halves]
    written = generate_shared(model.model, given_halves, sampling, model.policy, max_tokens=job.config.eval_tokens)
    decode = model.tokenizer.decode
    samples = [
        {"prompt": decode(given), "reference": decode(rest), "answer": decode(ids)}
        for (given, rest), ids in zip(halves, written, strict=True)
    ]
    return {"perplexity": measured.perplexity, "loss": measured.loss, "tokens": measured.tokens}, samples


def save(job: Job[PretrainConfig], model: CausalLM, metrics: dict[str, Any], samples: list[Sample]) -> Result:
    """Writes adapter or model, tokenizer, curves and samples."""
    return save_causal_lm(job, model, metrics, samples)
