"""What comes before and after the training stages: base, datasets, merges, evaluation."""

from __future__ import annotations

import json
from typing import Any

from components.common.manifest import Kind
from tests.support.report_curves import answers, cosine, curve, falling, rising
from tests.support.report_store import Made


def write_base(made: Made) -> None:
    made.artifact("source", "source", "source", metrics={"files": 5, "bytes": 9_000_000})
    made.artifact(
        "base",
        "base",
        "model",
        {"sources": "source"},
        {
            "before": {"loss": 6.93, "perplexity": 1021.0, "tokens": 9210},
            "after": {"loss": 1.212, "perplexity": 3.361, "tokens": 9210},
            "trainable_parameters": 1_312_000,
        },
        curve(
            800,
            10,
            {
                "loss": falling(6.2, 1.25),
                "token_accuracy": rising(0.1, 0.71),
                "lr": cosine(2e-3),
                "grad_norm": falling(2, 0.4),
            },
        ),
        files={
            "config.json": json.dumps(
                {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 128, "vocab_size": 1024}
            )
        },
    )
    made.settings["model"]["source"] = made.uris["base"]


def write_data(made: Made) -> None:
    counts = {
        "pretrain": {
            "rows": 14200,
            "train": 12950,
            "heldout": 650,
            "duplicates": 440,
            "train_rows": 13102,
            "heldout_rows": 500,
            "train_packed_rows": 1720,
            "train_padding_share": 0.0213,
            "dropped": [{"reason": "the text is empty", "count": 160, "first": "icd/base.jsonl line 88"}],
        },
        "sft": {
            "rows": 20000,
            "train": 17110,
            "heldout": 912,
            "duplicates": 1978,
            "train_rows": 17110,
            "heldout_rows": 912,
            "train_packed_rows": 2310,
            "train_padding_share": 0.0371,
            "train_label_tokens": 120_334,
            "dropped": [],
        },
        "reward": {
            "rows": 9000,
            "train": 8500,
            "heldout": 453,
            "duplicates": 12,
            "train_rows": 7743,
            "heldout_rows": 377,
            "train_label_tokens": 48_200,
            "dropped": [
                {
                    "reason": "the answers differ in their number of tokens",
                    "count": 833,
                    "first": "row that begins 'Which chapter is J45.40 in?'",
                },
                {"reason": "chosen and rejected are the same", "count": 35, "first": "reward.jsonl line 1204"},
            ],
        },
        "rl": {
            "rows": 6000,
            "train": 5460,
            "heldout": 300,
            "duplicates": 240,
            "train_rows": 5460,
            "heldout_rows": 256,
            "dropped": [],
        },
    }
    for task, fields in counts.items():
        rest = {
            "train_tokens": 1_204_331,
            "heldout_tokens": 61_023,
            "train_longest": 231,
            "heldout_longest": 190,
            "truncated": 3,
        }
        made.artifact(f"data-{task}", f"data-{task}", "dataset", {"model": "base"}, {**fields, **rest})


def write_merge(made: Made, stage: str, base: str) -> None:
    counts = {
        "tensors_merged": 28,
        "tensors_copied": 10,
        "tensors_replaced": int(stage == "reward"),
        "bytes": 5_249_000,
        "parameters": 1_312_000,
    }
    kind: Kind = "reward_model" if stage == "reward" else "model"
    made.artifact(f"merge-{stage}", "merge", kind, {"base": base, "adapter": stage}, counts)


def write_evaluation(made: Made, model: str) -> None:
    metrics: dict[str, Any] = {
        "prompts": 256,
        "exact_answer": {"before": 0.0117, "after": 0.8125, "gain": {"mean": 0.8008, "low": 0.75, "high": 0.8477}},
    }
    parents = {"model": model, "before": "base", "dataset": "data-rl"}
    if "merge-reward" in made.uris:
        parents["reward"] = "merge-reward"
        metrics["reward"] = {"before": -1.204, "after": 1.871, "gain": {"mean": 3.075, "low": 2.85, "high": 3.29}}
    made.artifact("evaluate", "evaluate", "evaluation", parents, metrics, samples=answers(0, 8))
