"""Direct preference optimisation: load_data, build_model, train, evaluate, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback
from trl import DPOConfig

from components.common.answers import Answers, Exchange, answer_exchanges
from components.common.causal import CausalLM, Sample, build_causal_lm, join_samples, save_causal_lm
from components.common.evaluation import sequence_log_probs
from components.common.heldout import PairScores, gain_interval
from components.common.stage import Job, Result
from components.common.trainer import Training, run_trainer
from components.common.trainer_arguments import training_order
from components.data.pairs import Pairs
from components.data.table import read_jsonl
from components.dpo.config import DpoConfig
from components.dpo.trainer import PairTrainer, pair_dataset


@dataclass(frozen=True)
class Data:
    """Pairs to train on, pairs to measure with, and prompts of the latter to be answered."""

    train: Pairs
    heldout: Pairs
    exchanges: list[Exchange]


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of the held-out answers under one model, in nats; both of shape (pairs,)."""

    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A policy on the held-out pairs.

    Attributes:
        scores: Implicit rewards of both answers, β · log(policy / reference).
        log_probs: Of both answers under the policy.
        answers: Its own answers to the prompts.
    """

    scores: PairScores
    log_probs: LogProbs
    answers: Answers

    @property
    def ranked(self) -> NDArray[np.float64]:
        """1 where the policy finds the chosen answer more likely than the rejected one, ½ where they tie, else 0."""
        margin = self.log_probs.chosen - self.log_probs.rejected
        ranked: NDArray[np.float64] = (np.sign(margin) + 1) / 2
        return ranked

    def metrics(self) -> dict[str, float | int]:
        """Of implicit rewards as of a reward model's scores; log-probabilities; exact match."""
        return {
            **self.scores.metrics(),
            "ranking_accuracy": float(self.ranked.mean()),
            "log_prob_chosen": float(self.log_probs.chosen.mean()),
            "log_prob_rejected": float(self.log_probs.rejected.mean()),
            **self.answers.metrics(),
        }


def run(job: Job[DpoConfig]) -> Result:
    """Trains the policy on pairs; measures implicit rewards and answers on held-out ones, before and after."""
    data = load_data(job)
    model = build_model(job)
    with model.model.disable_adapter():
        reference = log_probs(job, model, data)
    before = evaluate(job, model, data, reference)
    train(job, model, data, reference)
    after = evaluate(job, model, data, reference)
    return save(job, model, data, before, after)


def load_data(job: Job[DpoConfig]) -> Data:
    """Maps the dataset's tables into memory and takes the prompts of held-out pairs."""
    train, heldout = (Pairs.load(job.folder("dataset") / side) for side in ("train", "heldout"))
    rows = read_jsonl(job.folder("dataset") / "heldout" / "rows.jsonl")
    exchanges = []
    for index in range(min(job.config.num_eval_prompts, len(heldout))):
        ids, start = heldout.chosen.ids(index), heldout.prompt_length(index)
        exchanges.append(Exchange(ids[:start], ids[start:], rows[index]["messages"][-1]["content"]))
    return Data(train, heldout, exchanges)


def build_model(job: Job[DpoConfig]) -> CausalLM:
    """Loads the model and adds the adapter. The reference is the same model with the adapter off."""
    return build_causal_lm(job)


def train(job: Job[DpoConfig], model: CausalLM, data: Data, reference: LogProbs) -> None:
    """Trains the adapter with TRL's DPOTrainer."""
    order = training_order(job, len(data.train))

    def trainer(arguments: dict[str, Any], callback: TrainerCallback) -> PairTrainer:
        return PairTrainer(
            model=model.model,
            args=dpo_arguments(job, arguments),
            train_dataset=pair_dataset(data.train, order),
            processing_class=model.tokenizer,
            callbacks=[callback],
        )

    def heldout_loss() -> float:
        return implicit_rewards(job, data, log_probs(job, model, data), reference).metrics()["loss"]

    lengths = np.maximum(data.train.chosen.lengths, data.train.rejected.lengths)
    run_trainer(Training(job, model.policy, model.model, order, lengths, trainer, heldout_loss))


def dpo_arguments(job: Job[DpoConfig], arguments: dict[str, Any]) -> DPOConfig:
    """TRL's configuration."""
    return DPOConfig(
        **arguments,
        max_length=None,  # the data step has cut the prompts; TRL would cut the answers
        beta=job.config.beta,
        loss_type=[job.config.loss_type],
        label_smoothing=job.config.label_smoothing,
        router_aux_loss_coef=0.0,  # the balancing loss of a mixture of experts is no sum over pairs
    )


def evaluate(job: Job[DpoConfig], model: CausalLM, data: Data, reference: LogProbs) -> Measured:
    """Measures the policy against the reference on the held-out pairs and answers their prompts."""
    config = job.config
    policy = log_probs(job, model, data)
    answers = answer_exchanges(
        model, data.exchanges, config.max_new_tokens, config.num_samples, max_tokens=config.eval_tokens
    )
    return Measured(implicit_rewards(job, data, policy, reference), policy, answers)


def implicit_rewards(job: Job[DpoConfig], data: Data, policy: LogProbs, reference: LogProbs) -> PairScores:
    """What the policy's answers would score under the reward model that it is, β · log(policy / reference)."""
    return PairScores(
        job.config.beta * (policy.chosen - reference.chosen),
        job.config.beta * (policy.rejected - reference.rejected),
        data.heldout.chosen.lengths,
        data.heldout.rejected.lengths,
    )


def log_probs(job: Job[DpoConfig], model: CausalLM, data: Data) -> LogProbs:
    """Log-probabilities of the held-out answers, with the adapter that is active, or none."""
    tables = (data.heldout.chosen, data.heldout.rejected)
    return LogProbs(*(sequence_log_probs(model.model, table, model.policy, job.config.eval_tokens) for table in tables))


def save(job: Job[DpoConfig], model: CausalLM, data: Data, before: Measured, after: Measured) -> Result:
    """Writes adapter, tokenizer, curves, and samples: pairs with their implicit rewards, answers before and after."""
    metrics: dict[str, Any] = {
        "before": before.metrics(),
        "after": after.metrics(),
        "ranking_accuracy_gain": gain_interval(before.ranked, after.ranked, seed=job.seed),
    }
    if data.exchanges:
        right = before.answers.right, after.answers.right
        metrics["exact_match_gain"] = gain_interval(*right, seed=job.seed)
    return save_causal_lm(job, model, metrics, _samples(job, before, after))


def _samples(job: Job[DpoConfig], before: Measured, after: Measured) -> list[Sample]:
    rows = read_jsonl(job.folder("dataset") / "heldout" / "rows.jsonl")
    answers = dict(enumerate(join_samples(before.answers.samples, after.answers.samples)))
    return [
        {
            "prompt": row["messages"][-1]["content"],
            "chosen": row["chosen"],
            "rejected": row["rejected"],
            "score_chosen": f"{after.scores.chosen[i]:.3f}",
            "score_rejected": f"{after.scores.rejected[i]:.3f}",
            **answers.get(i, {}),
        }
        for i, row in enumerate(rows[: job.config.num_samples])
    ]
