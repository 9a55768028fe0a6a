"""What a trainer of transformers or TRL is told: its arguments, the shape of its batches, the order of the rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import set_seed

from components.common import distributed
from components.common.checkpoint_files import CHECKPOINTS
from components.common.device import DevicePolicy
from components.common.errors import UserError
from components.common.stage import Job
from components.common.training import TrainingConfig


def trainer_arguments(job: Job[Any], policy: DevicePolicy, limit: int) -> dict[str, Any]:
    """Arguments for the trainers' configurations, complete enough that no surprising default is left.

    TRL turns bfloat16 on unless told otherwise, saves every 500 steps and checkpoints activations.

    Args:
        job: The stage.
        policy: Device and type.
        limit: Most rows in a micro-batch.
    """
    config: TrainingConfig = job.config
    micro, accumulation = batch_shape(config, limit)
    return {
        "output_dir": str(aside(job)),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 1,  # `training_order` holds the rows of all epochs
        "train_sampling_strategy": "sequential",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": config.warmup_ratio,  # below 1 it is a share of all steps
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.activation_checkpointing,
        "use_cpu": policy.device.type == "cpu",
        "fp16": policy.fp16,
        "bf16": policy.bf16,
        "seed": job.seed,
        "logging_steps": 1,  # the curves are whole, and a mean over steps need not survive a restart
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # `StageCallback` asks for checkpoints
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": policy.device.type == "cuda",
    }


def batch_shape(config: TrainingConfig, limit: int) -> tuple[int, int]:
    """Splits the global batch over processes and micro-batches.

    Args:
        config: Says how many rows make a batch.
        limit: Most rows in a micro-batch.

    Returns:
        Rows of a micro-batch and number of micro-batches a step, in one process.

    Raises:
        UserError: The global batch cannot be shared evenly by the processes.
    """
    share, rest = divmod(config.train_batch_size, distributed.world_size())
    if rest or not share:
        raise UserError(
            f"train_batch_size {config.train_batch_size} cannot be shared by {distributed.world_size()} processes",
            hint="make it a multiple of the number of processes",
        )
    micro = next(n for n in range(min(limit, share), 0, -1) if share % n == 0)
    return micro, share // micro


def training_order(job: Job[Any], rows: int) -> NDArray[np.int64]:
    """The rows of all optimizer steps, one after the other: shuffled epochs that run into each other.

    Every row is seen once an epoch, a batch may hold the end of one epoch and the beginning of the next, and what is in
    a batch does not depend on the number of processes. Left to the trainer, several processes would repeat rows to
    share an uneven rest.

    Args:
        job: The stage; its settings say how many epochs or steps, and the size of a batch.
        rows: Number of rows of the dataset.

    Returns:
        Row numbers, shape (steps × train_batch_size,).
    """
    config: TrainingConfig = job.config
    batch = config.train_batch_size
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * rows / batch)
    epochs = -(-steps * batch // rows)
    order = [np.random.default_rng((job.seed, epoch)).permutation(rows) for epoch in range(epochs)]
    return np.concatenate(order)[: steps * batch]


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch, before anything random is built."""
    set_seed(seed)


def aside(job: Job[Any]) -> Path:
    """Where the trainer writes a checkpoint, beside those that are whole."""
    return job.work / CHECKPOINTS / ".writing"
