"""Building and saving a causal language model in training: what pretrain, sft and dpo share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.common import distributed
from components.common.adapters import add_adapter, refuse_adapter
from components.common.curves import copy_curves
from components.common.device import DevicePolicy, device_policy
from components.common.models import load_causal_lm, new_causal_lm
from components.common.saving import save_adapter, save_model, save_tokenizer, whole_model
from components.common.sharding import build_sharded, is_sharded, whole_trainables
from components.common.stage import Job, Result
from components.common.tokenizer import load_tokenizer
from components.common.trainables import float32_trainables, lora_config, parameter_count
from components.common.trainer_arguments import seed_everything
from components.common.training import TrainingConfig
from components.data.table import TokenTable, write_jsonl

Sample = dict[str, str]


@dataclass(frozen=True)
class CausalLM:
    """A model whose trainable parameters are float32, its tokenizer and the arithmetic of its device."""

    model: Any
    tokenizer: Any
    policy: DevicePolicy


@dataclass(frozen=True)
class Tables:
    """Packed rows to train on, whole sequences to measure with."""

    train: TokenTable
    heldout: TokenTable

    @staticmethod
    def load(job: Job[Any]) -> Tables:
        """Maps the tables of the stage's dataset into memory."""
        folder = job.folder("dataset")
        return Tables(TokenTable.load(folder / "train"), TokenTable.load(folder / "heldout"))


def build_causal_lm(job: Job[Any], *, random_weights: bool = False) -> CausalLM:
    """Loads the stage's model, or makes a new one of its shape; with an adapter if the settings ask for it."""
    config: TrainingConfig = job.config
    policy = device_policy()
    distributed.start(policy.device)
    seed_everything(job.seed)
    tokenizer = load_tokenizer(job.folder("model"))
    folder = job.folder("model")
    full = config.lora is None

    def build(policy: DevicePolicy) -> Any:
        if random_weights:
            model = new_causal_lm(folder, policy)
        else:
            model = load_causal_lm(folder, policy, full_precision=full, load_in_4bit=config.load_in_4bit)
        if config.lora is None:
            refuse_adapter(job)
        else:
            model = add_adapter(job, model, lora_config(model, config.lora, "CAUSAL_LM"))
        float32_trainables(model)
        return model

    sharded = config.sharding == "fsdp2"
    return CausalLM(build_sharded(job.name, policy, build) if sharded else build(policy), tokenizer, policy)


def save_causal_lm(job: Job[Any], trained: CausalLM, metrics: dict[str, Any], samples: list[Sample]) -> Result:
    """Writes adapter or model, tokenizer, curves and samples into the artifact's folder."""
    full = job.config.lora is None
    metrics = {**metrics, "trainable_parameters": parameter_count(trained.model, trainable=True)}
    tokenizer: dict[str, str] = {}
    weights = whole_trainables(trained.model) if is_sharded(trained.model) else None
    if distributed.is_main():
        if full:
            model = trained.model if weights is None else whole_model(trained.model, weights)
            save_model(model, job.out, job.folder("model"))
        else:
            save_adapter(trained.model, job.out, base=job.plan.parents()["model"].uri, weights=weights)
        tokenizer = save_tokenizer(trained.tokenizer, job.out)
        copy_curves(job.work, job.out)
        write_jsonl(job.out / "samples.jsonl", samples)
    return Result("model" if full else "adapter", metrics, tokenizer)


def join_samples(before: list[Sample], after: list[Sample]) -> list[Sample]:
    """The same prompts' answers before and after training, side by side."""
    return [{**now, "before": was["answer"]} for was, now in zip(before, after, strict=True)]
