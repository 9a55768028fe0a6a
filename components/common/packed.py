"""Training on packed rows: what pretrain and sft share.

The rows come tokenised and packed from the data step and the loss is our own, so transformers' Trainer is all that is
needed: TRL's SFTTrainer would prepare nothing here, and off CUDA it computes the logits of every position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from components.common import distributed
from components.common.batches import PackedRows, collate
from components.common.causal import Tables
from components.common.device import DevicePolicy
from components.common.errors import UserError
from components.common.evaluation import evaluating, likelihood
from components.common.forward_pass import autocast, backbone
from components.common.label_head import label_head
from components.common.sharded_trainer import ShardedCheckpoints
from components.common.stage import Job
from components.common.trainer import Training, run_trainer
from components.common.trainer_arguments import training_order
from components.data.table import TokenTable

BORDER_TOLERANCE = 0.05  # of the hidden states' spread: rounding in half precision stays below, a leak does not


def train_packed(job: Job[Any], model: Any, data: Tables, policy: DevicePolicy) -> None:
    """Trains a model's trainable parameters on a table's packed rows.

    Args:
        job: The stage.
        model: A causal language model, with or without an adapter; changed in place.
        data: Packed rows to train on; sequences to measure with on the way.
        policy: Device and type.
    """
    table = data.train
    _check_borders(job, model, table, policy)
    order = training_order(job, len(table.rows or ()))

    def trainer(arguments: dict[str, Any], callback: TrainerCallback) -> PackedTrainer:
        return PackedTrainer(
            model=model,
            args=TrainingArguments(**arguments),
            train_dataset=PackedRows(table, order),
            data_collator=collate,
            callbacks=[callback],
        )

    def heldout_loss() -> float:
        heldout = data.heldout
        return likelihood(model, heldout, range(len(heldout)), policy, max_tokens=job.config.eval_tokens).loss

    with label_head(model):
        run_trainer(Training(job, policy, model, order, table.row_lengths(), trainer, heldout_loss))


class PackedTrainer(ShardedCheckpoints):
    """A trainer for a model under `label_head`: a step's loss is the mean over the label tokens of its global batch."""

    loss_is_scaled_for_ga = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # the trainer counts a step's label tokens, over all processes
        self._tokens = 0.0
        self._counts = torch.zeros(3, dtype=torch.float64, device=self.args.device)  # right, labelled, all tokens

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Summed loss over the step's label tokens, times the number of processes: gradients are averaged over them.

        Args:
            model: As wrapped for training.
            inputs: A micro-batch from `collate`.
            return_outputs: Not supported; held-out rows are measured by `components.common.evaluation`.
            num_items_in_batch: Label tokens of the step, of all processes.
        """
        assert num_items_in_batch is not None
        assert not return_outputs
        lengths = inputs.pop("lengths")
        nll, correct = model(**inputs)
        labelled = (inputs["labels"] != -100).sum()
        self._counts += torch.stack([correct, labelled, lengths.sum()])
        return nll / num_items_in_batch.clamp(min=1) * distributed.world_size()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the token accuracy since the last line, and the tokens that all processes have handled."""
        if "loss" in logs:
            right, labelled, tokens = distributed.sum_over_ranks(self._counts).tolist()
            self._counts.zero_()
            self._tokens += tokens
            logs |= {"mean_token_accuracy": right / max(labelled, 1), "num_tokens": self._tokens}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nobody reads it, and counting parameters anew in every step takes milliseconds."""
        return 0


def _check_borders(job: Job[Any], model: Any, table: TokenTable, policy: DevicePolicy) -> None:
    """Computes one packed row, and its last sequence alone: the model must give the same.

    Raises:
        UserError: It does not: its attention, or another layer, crosses the borders inside a row.
    """
    rows = table.rows
    packed = [row for row in range(len(rows or ())) if rows is not None and len(rows.row(row)) > 1]
    if not packed:
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
