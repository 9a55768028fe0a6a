"""Reward modelling: load_data, build_model, train, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import TrainerCallback
from trl import RewardConfig as TrlRewardConfig
from trl import RewardTrainer

from components.common import distributed
from components.common.adapters import add_adapter
from components.common.causal import CausalLM, Sample
from components.common.curves import copy_curves
from components.common.device import DevicePolicy, device_policy
from components.common.evaluation import evaluating, score_sequences
from components.common.forward_pass import last_token_scores
from components.common.heldout import PairScores
from components.common.models import load_reward_base
from components.common.saving import save_adapter, save_tokenizer
from components.common.sharded_trainer import ShardedCheckpoints
from components.common.sharding import build_sharded, is_sharded, whole, whole_trainables
from components.common.stage import Job, Result
from components.common.tokenizer import load_tokenizer
from components.common.trainables import float32_trainables, lora_config, parameter_count, score_head
from components.common.trainer import Training, run_trainer
from components.common.trainer_arguments import seed_everything, training_order
from components.data.pairs import Pairs
from components.data.table import read_jsonl, write_jsonl
from components.reward.config import RewardConfig
from components.reward.parity import save_parity


@dataclass(frozen=True)
class Data:
    """Pairs to train on and pairs to measure with."""

    train: Pairs
    heldout: Pairs


def run(job: Job[RewardConfig]) -> Result:
    """Trains the score; measures pairwise accuracy and margin on held-out pairs, before and after."""
    data = load_data(job)
    model = build_model(job)
    before = evaluate(job, model, data)
    train(job, model, data)
    after = evaluate(job, model, data)
    return save(job, model, data, before, after)


def load_data(job: Job[RewardConfig]) -> Data:
    """Maps the dataset's tables into memory."""
    return Data(*(Pairs.load(job.folder("dataset") / side) for side in ("train", "heldout")))


def build_model(job: Job[RewardConfig]) -> CausalLM:
    """Puts an adapter and a score head that starts at zero on the model's backbone."""
    policy = device_policy()
    distributed.start(policy.device)
    seed_everything(job.seed)
    tokenizer = load_tokenizer(job.folder("model"))
    config, folder = job.config, job.folder("model")

    def build(policy: DevicePolicy) -> Any:
        base = load_reward_base(folder, policy, tokenizer.pad_token_id, load_in_4bit=config.load_in_4bit)
        assert config.lora is not None  # RewardConfig refuses null
        model = add_adapter(job, base, lora_config(base, config.lora, "SEQ_CLS"))
        float32_trainables(model)
        return model

    sharded = config.sharding == "fsdp2"
    return CausalLM(build_sharded(job.name, policy, build) if sharded else build(policy), tokenizer, policy)


class ScoreTrainer(ShardedCheckpoints, RewardTrainer):  # type: ignore[misc]
    """TRL's RewardTrainer."""


def train(job: Job[RewardConfig], model: CausalLM, data: Data) -> None:
    """Trains adapter and head with TRL's RewardTrainer."""
    order = training_order(job, len(data.train))

    def trainer(arguments: dict[str, Any], callback: TrainerCallback) -> ScoreTrainer:
        centering = {"center_rewards_coefficient": job.config.center_rewards_coefficient}
        return ScoreTrainer(
            model=model.model,
            args=TrlRewardConfig(**arguments, **centering, max_length=None, disable_dropout=False),
            train_dataset=_pair_dataset(data.train, order),
            processing_class=model.tokenizer,
            callbacks=[callback],
        )

    lengths = np.maximum(data.train.chosen.lengths, data.train.rejected.lengths)

    def heldout_loss() -> float:
        return evaluate(job, model, data).metrics()["loss"]

    run_trainer(Training(job, model.policy, model.model, order, lengths, trainer, heldout_loss))


def evaluate(job: Job[RewardConfig], model: CausalLM, data: Data) -> PairScores:
    """Scores the held-out pairs."""
    return score_pairs(model, data.heldout, max_tokens=job.config.eval_tokens)


def save(job: Job[RewardConfig], model: CausalLM, data: Data, before: PairScores, after: PairScores) -> Result:
    """Writes adapter with head, tokenizer, curves, samples, and the pairs by which every later copy is checked."""
    with model.model.disable_adapter():
        head_only = score_pairs(model, data.heldout, max_tokens=job.config.eval_tokens)
    metrics = {
        "before": before.metrics(),
        "after": {**after.metrics(), "accuracy_head_only": head_only.accuracy()},
        "trainable_parameters": parameter_count(model.model, trainable=True),
    }
    tokenizer: dict[str, str] = {}
    weights = whole_trainables(model.model) if is_sharded(model.model) else None
    if distributed.is_main():
        save_adapter(model.model, job.out, base=job.plan.parents()["model"].uri, weights=weights)
        tokenizer = save_tokenizer(model.tokenizer, job.out)
        copy_curves(job.work, job.out)
        save_parity(job.out, data.heldout, after, job.config.num_parity_pairs, quantised=job.config.load_in_4bit)
        write_jsonl(job.out / "samples.jsonl", _samples(job, after))
    return Result("adapter", metrics, tokenizer)


def score_pairs(model: CausalLM, pairs: Pairs, max_tokens: int) -> PairScores:
    """Scores both answers of each pair with the adapter that is active, or none, under the trained head."""
    head = whole(score_head(model.model))

    def score(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return last_token_scores(model.model, ids, mask, head)

    chosen, rejected = (
        score_sequences(
            score, [table.ids(i) for i in range(len(table))], model.policy, max_tokens, during=evaluating(model.model)
        )
        for table in (pairs.chosen, pairs.rejected)
    )
    return PairScores(chosen, rejected, pairs.chosen.lengths, pairs.rejected.lengths)


def _pair_dataset(pairs: Pairs, order: NDArray[np.int64]) -> Dataset:
    """Pairs in an order, in TRL's tokenised form, read from the memory-mapped tables row by row.

    The columns hold row numbers under the names by which TRL recognises tokenised pairs; the transform puts in what the
    rows hold.
    """

    def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = batch["chosen_ids"]
        columns: dict[str, list[Any]] = {
            "chosen_ids": [pairs.chosen.ids(row).tolist() for row in rows],
            "rejected_ids": [pairs.rejected.ids(row).tolist() for row in rows],
        }
        return columns if pairs.margin is None else {**columns, "margin": pairs.margin[rows].tolist()}

    return Dataset.from_dict({"chosen_ids": order, "rejected_ids": order}).with_transform(read)


def _samples(job: Job[RewardConfig], scores: PairScores) -> list[Sample]:
    rows = read_jsonl(job.folder("dataset") / "heldout" / "rows.jsonl")[: job.config.num_samples]
    return [
        {
            "prompt": row["messages"][-1]["content"],
            "chosen": row["chosen"],
            "rejected": row["rejected"],
            "score_chosen": f"{scores.chosen[i]:.3f}",
            "score_rejected": f"{scores.rejected[i]:.3f}",
        }
        for i, row in enumerate(rows)
    ]
