"""Training on packed rows with TRL's SFTTrainer: what pretrain and sft share.

The rows come tokenised and packed from the data step, so TRL's own preparation is skipped. One row a micro-batch is
best without FlashAttention: TRL joins the rows of a micro-batch into one, and attention masks grow with its square.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from components.common.causal import Tables
from components.common.device import DevicePolicy
from components.common.errors import UserError
from components.common.evaluation import autocast, backbone, evaluating, likelihood
from components.common.stage import Job
from components.common.trainer import Training, run_trainer, training_order
from components.data.model_facts import read_model_facts
from components.data.table import TokenTable

BORDER_TOLERANCE = 0.05  # of the hidden states' spread: rounding in half precision stays below, a leak does not


def train_packed(job: Job[Any], model: Any, tokenizer: Any, data: Tables, policy: DevicePolicy) -> None:
    """Trains a model's trainable parameters on a table's packed rows.

    Args:
        job: The stage.
        model: A causal language model, with or without an adapter; changed in place.
        tokenizer: Its tokenizer.
        data: Packed rows to train on; sequences to measure with on the way.
        policy: Device and type.
    """
    table = data.train
    _check_borders(job, model, table, policy)
    order = training_order(job, len(table.rows or ()))

    def trainer(arguments: dict[str, Any], callback: TrainerCallback) -> SFTTrainer:
        packed = {"packing": False, "padding_free": True, "max_length": None}
        return SFTTrainer(
            model=model,
            args=SFTConfig(**arguments, **packed, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=packed_dataset(table, order),
            processing_class=tokenizer,
            callbacks=[callback],
        )

    def heldout_loss() -> float:
        heldout = data.heldout
        return likelihood(model, heldout, range(len(heldout)), policy, max_tokens=job.config.eval_tokens).loss

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*per_device_train_batch_size of 1.*")
        run_trainer(Training(job, policy, model, order, table.row_lengths(), trainer, heldout_loss))


def packed_dataset(table: TokenTable, order: NDArray[np.int64]) -> Dataset:
    """Rows of a packed table in an order, read from the memory-mapped files when they are asked for."""

    def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [table.packed(row) for row in batch["row"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    return Dataset.from_dict({"row": order}).with_transform(read)


def _check_borders(job: Job[Any], model: Any, table: TokenTable, policy: DevicePolicy) -> None:
    """Computes one packed row, and its last sequence alone: the model must give the same.

    Raises:
        UserError: It does not: its attention, or another layer, crosses the borders inside a row.
    """
    rows = table.rows
    packed = [row for row in range(len(rows or ())) if rows is not None and len(rows.row(row)) > 1]
    if not packed:
        if job.config.per_device_train_batch_size > 1 and not read_model_facts(job.folder("model")).can_pack:
            raise UserError(
                "this model cannot compute several sequences at once without padding",
                where=f"{job.name}.per_device_train_batch_size",
                hint="set it to 1",
            )
        return
    row = table.packed(packed[0])
    lengths = row["seq_lengths"]
    ids = torch.tensor(row["input_ids"], device=policy.device)[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(policy.device)
    with evaluating(model), autocast(policy):
        together = backbone(model)(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        alone = backbone(model)(input_ids=ids[:, -lengths[-1] :], use_cache=False).last_hidden_state
    apart = (together[:, -lengths[-1] :].float() - alone.float()).abs().max().item()
    if apart > BORDER_TOLERANCE * alone.float().std().item():
        raise UserError(
            f"this model attends across the borders of packed sequences (hidden states {apart:.2g} apart)",
            where=f"data.{job.name}",
            hint=f"set data.{job.name}.packing=false" if job.name == "sft" else "use another base",
        )
