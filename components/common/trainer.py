"""What the stages that train with TRL share: arguments, progress, guards. TRL itself is imported by the stages."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback, TrainerCallback, set_seed

from components.common import distributed
from components.common.best import BestWeights
from components.common.checkpoints import Checkpoints
from components.common.curves import Curves
from components.common.device import DevicePolicy
from components.common.errors import UserError
from components.common.interrupt import StopRequest, stop_requests, stopped
from components.common.logs import Progress, say
from components.common.overflow import OverflowWatch
from components.common.stage import Job
from components.common.training import TrainingConfig

# What of the trainer's log goes into curves and lines, and under which name.
_CURVES = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "accuracy": "accuracy",
    "margin": "margin",
}
_SHOWN = ("loss", "accuracy", "lr")


def batch_shape(config: TrainingConfig) -> tuple[int, int]:
    """Splits the global batch over processes and micro-batches.

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
    micro = next(n for n in range(min(config.per_device_train_batch_size, share), 0, -1) if share % n == 0)
    return micro, share // micro


def trainer_arguments(job: Job[Any], policy: DevicePolicy) -> dict[str, Any]:
    """Arguments for TRL's configurations, complete enough that none of their surprising defaults is left.

    TRL turns bfloat16 on unless told otherwise, saves every 500 steps and checkpoints activations.
    """
    config: TrainingConfig = job.config
    micro, accumulation = batch_shape(config)
    return {
        "output_dir": str(_aside(job)),
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


def run_trainer(
    job: Job[Any],
    policy: DevicePolicy,
    model: Any,
    make: Callable[[TrainerCallback], Any],
    heldout_loss: Callable[[], float],
) -> None:
    """Trains to the last step, from the newest checkpoint of the same key if there is one.

    Args:
        job: The stage.
        policy: Device and type.
        model: What is trained.
        make: Makes the trainer with a callback.
        heldout_loss: Measures the model as it is, where the settings ask for that on the way.

    Raises:
        RetryableError: The process was told to stop; a checkpoint of the last finished step is written.
    """
    checkpoints = Checkpoints(job.work, job.name, job.config.save_total_limit)
    if distributed.is_main():
        shutil.rmtree(_aside(job), ignore_errors=True)
    found = checkpoints.resume()
    folder = found.folder if found else None
    best = BestWeights(model, job.config, heldout_loss)
    if folder:
        best.load(folder)
    with stop_requests(policy.device) as request, Curves(job.work, job.name, job.config.report_to, folder) as curves:
        callback = StageCallback(job, curves, checkpoints, request, best)
        trainer = make(callback)
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    if callback.stopped:
        raise stopped(job.name, trainer.state.global_step)
    taken = best.take()
    if taken is not None:
        say(job.name, f"takes the weights of step {taken}, the best on held-out data")


def _aside(job: Job[Any]) -> Path:
    """Where the trainer writes a checkpoint, beside those that are whole."""
    return job.work / "checkpoints" / ".writing"


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """Writes curves, progress lines and checkpoints, stops when told to, or when the loss is no number.

    Args:
        job: The stage.
        curves: Where the values go.
        checkpoints: Where checkpoints go.
        request: Says whether the process was told to stop.
        best: Measures on the way, where the settings ask for it.
    """

    def __init__(
        self, job: Job[Any], curves: Curves, checkpoints: Checkpoints, request: StopRequest, best: BestWeights
    ) -> None:
        self._job, self._curves, self._checkpoints, self._request, self._best = job, curves, checkpoints, request, best
        self._extra: dict[str, float] = {}
        self._progress: Progress | None = None
        self._watch = OverflowWatch(job.name)
        self.stopped = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Makes the random numbers of a step (dropout) depend on the step alone, so that none need be remembered."""
        torch.manual_seed(_step_seed(self._job.seed, state.global_step))

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leaves a step half done if told to stop: it may be long, and the last finished one is still in memory."""
        self._look_for_stop(control)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Looks for overflow, measures and asks for a checkpoint where that is due."""
        skipped = bool(optimizer.step_was_skipped)
        self._watch.step(skipped=skipped)
        self._extra = {"skipped": float(skipped)} if args.fp16 else {}
        if self._best.due(state.global_step):
            self._extra["heldout_loss"] = self._best.look(state.global_step)
            if self._best.exhausted:
                say(self._job.name, f"stops early after step {state.global_step}: the held-out loss falls no more")
                control.should_save = control.should_training_stop = True
        every = self._job.config.save_steps
        # The last step always: what comes after training may be interrupted, too.
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            control.should_save = True
        self._look_for_stop(control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Makes what the trainer has written a checkpoint."""
        distributed.barrier()
        if distributed.is_main():
            written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._curves.save(written)
            self._best.save(written)
            self._checkpoints.commit(written, state.global_step)
        distributed.barrier()

    def _look_for_stop(self, control: Any) -> None:
        if self._request.agreed():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Learns how many steps there will be."""
        self._progress = Progress(
            self._job.name, state.max_steps, state.global_step, every=self._job.config.logging_steps
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Takes the trainer's values."""
        if not logs or "loss" not in logs or self._progress is None:
            return
        loss = logs["loss"]
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {state.global_step}",
                where=self._job.name,
                hint=f"lower {self._job.name}.learning_rate or look for broken rows in the data",
            )
        values = {ours: float(logs[theirs]) for theirs, ours in _CURVES.items() if theirs in logs}
        values |= self._extra
        self._curves.write(state.global_step, values)
        shown = {name: values[name] for name in _SHOWN if name in values}
        self._progress.step(state.global_step, shown, tokens=int(logs.get("num_tokens", 0)))


def _step_seed(seed: int, step: int) -> int:
    """A seed for one step of one process."""
    return int(np.random.SeedSequence((seed, step, distributed.rank())).generate_state(1)[0])
