"""What our stages add to a trainer: curves, progress, checkpoints, guards, and an end when told to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from components.common import distributed, heartbeat
from components.common.best import BestWeights
from components.common.checkpoints import Checkpoints
from components.common.curves import Curves
from components.common.errors import UserError
from components.common.interrupt import StopRequest
from components.common.logs import Progress, say
from components.common.overflow import OverflowWatch
from components.common.stage import Job

# What of the trainer's log goes into curves and lines, and under which name.
_CURVES = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "accuracy": "accuracy",
    "margin": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "logps/chosen": "log_prob_chosen",
    "logps/rejected": "log_prob_rejected",
}
_SHOWN = ("loss", "accuracy", "lr")


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
        self._scale = 1.0
        self.stopped = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Makes the random numbers of a step (dropout) depend on the step alone, so that none need be remembered."""
        torch.manual_seed(_step_seed(self._job.seed, state.global_step))

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leaves a step half done if told to stop: it may be long, and the last finished one is still in memory."""
        heartbeat.beat()
        self._look_for_stop(control)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Looks for overflow, and has the schedule wait for a step that was skipped."""
        before, self._scale = self._scale, _scale_of(optimizer)
        skipped = self._scale < before
        self._watch.step(skipped=skipped)
        self._extra = {"skipped": float(skipped)} if args.fp16 else {}
        # By itself accelerate does not see it: a fused optimizer is called all the same, and skips the step within.
        if args.fp16:
            optimizer._is_overflow = skipped

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measures and asks for a checkpoint where that is due."""
        heartbeat.beat(state.global_step)
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

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Learns how many steps there will be, and the scale to begin with."""
        self._scale = _scale_of(optimizer)
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
        # With every token right, zero is what rounding leaves of a loss; otherwise there was none.
        if loss == 0 and logs.get("mean_token_accuracy", 1.0) < 1:
            raise UserError(
                f"the loss is exactly 0 at step {state.global_step}: no token was learnt from, or float16 broke down",
                where=self._job.name,
                hint=f"look for rows without an answer in data.{self._job.name}, or lower the learning rate",
            )
        values = {ours: float(logs[theirs]) for theirs, ours in _CURVES.items() if theirs in logs}
        values |= self._extra
        self._curves.write(state.global_step, values)
        shown = {name: values[name] for name in _SHOWN if name in values}
        self._progress.step(state.global_step, shown, tokens=int(logs.get("num_tokens", 0)))


def _scale_of(optimizer: Any) -> float:
    """What a loss is multiplied with in float16. An overflow lowers it, and nothing else does."""
    return 1.0 if optimizer.scaler is None else float(optimizer.scaler.get_scale())


def _step_seed(seed: int, step: int) -> int:
    """A seed for one step of one process."""
    return int(np.random.SeedSequence((seed, step, distributed.rank())).generate_state(1)[0])
