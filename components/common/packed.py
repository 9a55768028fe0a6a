"""Training on packed rows with TRL's SFTTrainer: what pretrain and sft share.

The rows come tokenised and packed from the data step, so TRL's own preparation is skipped. One row a micro-batch is
best without FlashAttention: TRL joins the rows of a micro-batch into one, and attention masks grow with its square.
"""

from __future__ import annotations

import warnings
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from components.common.curves import Curves
from components.common.device import DevicePolicy
from components.common.stage import Job
from components.common.trainer import StageCallback, start_training, trainer_arguments, whole_batches
from components.data.table import TokenTable


def train_packed(job: Job[Any], model: Any, tokenizer: Any, table: TokenTable, policy: DevicePolicy) -> None:
    """Trains a model's trainable parameters on a table's packed rows.

    Args:
        job: The stage.
        model: A causal language model, with or without an adapter; changed in place.
        tokenizer: Its tokenizer.
        table: A packed table.
        policy: Device and type.
    """
    arguments = SFTConfig(
        **trainer_arguments(job, policy),
        packing=False,
        padding_free=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with Curves(job.work, job.name) as curves, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*per_device_train_batch_size of 1.*")
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=packed_dataset(table, whole_batches(job, len(table.rows or ()))),
            processing_class=tokenizer,
            callbacks=[StageCallback(job, curves)],
        )
        start_training(trainer)


def packed_dataset(table: TokenTable, rows: int) -> Dataset:
    """The first rows of a packed table, read from the memory-mapped files when they are asked for."""

    def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [table.packed(row) for row in batch["row"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    return Dataset.from_dict({"row": range(rows)}).with_transform(read)
