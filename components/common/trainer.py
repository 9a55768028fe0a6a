"""How the stages that train with a trainer of transformers or TRL do it: from the newest checkpoint to the last step.

The trainers themselves are imported by the stages.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback, TrainerCallback

from components.common import distributed
from components.common.best import BestWeights
from components.common.callback import StageCallback
from components.common.checkpoints import Checkpoints
from components.common.curves import Curves
from components.common.device import DevicePolicy
from components.common.forward_pass import autocast
from components.common.interrupt import stop_requests, stopped
from components.common.logs import say
from components.common.micro_batch import fitting, peak_of, reckoned, try_gradients
from components.common.sharding import is_sharded
from components.common.stage import Job
from components.common.trainables import float32_trainables
from components.common.trainer_arguments import aside, trainer_arguments

_USABLE = 0.95  # of free memory: the allocator wastes some


@dataclass(frozen=True)
class Training:
    """What `run_trainer` is given.

    Attributes:
        job: The stage.
        policy: Device and type.
        model: What is trained, in place.
        rows: Dataset row of each training row, in order (`training_order`).
        lengths: Tokens in each dataset row.
        make: Makes a trainer of arguments (`trainer_arguments`) and a callback.
        heldout_loss: Measures the model as it is, where the settings ask for that on the way.
    """

    job: Job[Any]
    policy: DevicePolicy
    model: Any
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    make: Callable[[dict[str, Any], TrainerCallback], Any]
    heldout_loss: Callable[[], float]


def run_trainer(training: Training) -> None:
    """Trains to the last step, from the newest checkpoint of the same key if there is one.

    Args:
        training: What and with what.

    Raises:
        RetryableError: The process was told to stop; a checkpoint of the last finished step is written.
        UserError: Not even one row fits the GPU.
    """
    job, policy = training.job, training.policy
    limit = _fitting_rows(training)
    checkpoints = Checkpoints(job.work, job.name, job.config.save_total_limit)
    if distributed.is_main():
        shutil.rmtree(aside(job), ignore_errors=True)
    found = checkpoints.resume()
    folder = found.folder if found else None
    best = BestWeights(training.model, job.config, training.heldout_loss)
    if folder:
        best.load(folder)
    with stop_requests(policy.device) as request, Curves(job.work, job.name, job.config.report_to, folder) as curves:
        callback = StageCallback(job, curves, checkpoints, request, best)
        trainer = _make_trainer(training, limit, callback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_LaidOut(trainer))
        if best.exhausted:  # an earlier attempt stopped early, and was killed before its result was there
            trainer._load_from_checkpoint(str(folder))
        else:
            trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    if callback.stopped:
        raise stopped(job.name, trainer.state.global_step)
    taken = best.take()
    if taken is not None:
        say(job.name, f"takes the weights of step {taken}, the best on held-out data")


def _fitting_rows(training: Training) -> int:
    """Rows of a micro-batch: as many as the settings say, or as fit the GPU."""
    job, device = training.job, training.policy.device
    limit: int = job.config.per_device_train_batch_size
    if device.type != "cuda":
        return limit
    if not is_sharded(training.model):
        return fitting(job.name, limit, lambda rows: try_longest(training, rows), device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)

    def attempt(rows: int) -> int:
        return peak_of(lambda: try_longest(training, rows), device)

    return reckoned(job.name, limit, attempt, device, int(free * _USABLE))


def try_longest(training: Training, rows: int) -> None:
    """Computes gradients for the longest rows in one micro-batch, and forgets them.

    No process waits for another here, unless the model is split among them.

    Raises:
        torch.OutOfMemoryError: They do not fit.
    """
    trainer = _make_trainer(training, rows, TrainerCallback())
    # TRL gathers its figures from all processes, and would wait for one that has run out of memory before that.
    trainer.accelerator.gather = trainer.accelerator.gather_for_metrics = _alone
    longest = np.argsort(training.lengths[training.rows], kind="stable")[-rows:]

    def loss() -> torch.Tensor:
        batch = trainer.data_collator([trainer.train_dataset[int(row)] for row in longest])
        with autocast(training.policy):
            inputs = trainer._prepare_inputs(batch)
            tokens = torch.ones((), device=training.policy.device)
            value: torch.Tensor = trainer.compute_loss(training.model, inputs, num_items_in_batch=tokens)
        return value

    try_gradients(training.model, loss)


def _make_trainer(training: Training, limit: int, callback: TrainerCallback) -> Any:
    if is_sharded(training.model):
        training.model.reshard()  # the optimizer is to be given parts, never what is gathered for a pass
    trainer = training.make(trainer_arguments(training.job, training.policy, limit), callback)
    float32_trainables(training.model)  # TRL makes adapters on a 4-bit base bfloat16, which a T4 does not have
    return trainer


def _alone(figures: Any, *_: Any, **__: Any) -> Any:
    """What one process alone gathers."""
    return figures


class _LaidOut(TrainerCallback):  # type: ignore[misc]
    """Settles how gradients are sent, once the trainer has wrapped the model.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        distributed.lay_out_gradients(self._trainer.model_wrapped)
