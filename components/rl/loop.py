"""The outer loop: roll out, score, update, batch after batch, with a checkpoint now and then."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from components.common import distributed
from components.common.checkpoints import Checkpoints
from components.common.curves import Curves
from components.common.generation import Sampling
from components.common.interrupt import StopRequest, stop_requests, stopped
from components.common.logs import Progress
from components.common.stage import Job
from components.rl.config import RlConfig
from components.rl.experience import Experience, Setup, gather_experience, summary
from components.rl.halt import NEVER, Halt
from components.rl.rollout import prompt_rows, roll_out
from components.rl.state import Learner, write_state
from components.rl.update import update


def learn(job: Job[RlConfig], setup: Setup, rows: Sequence[int], stop: int) -> None:
    """Runs the loop to its last step, from the newest checkpoint if there is one.

    Args:
        job: The stage.
        setup: Roles, prompts and reward functions.
        rows: Prompts to roll out.
        stop: The token that ends a turn.

    Raises:
        RetryableError: The process was told to stop; a checkpoint of the last finished step is written.
    """
    learner = Learner.build(setup.roles, job.config)
    checkpoints = Checkpoints(job.work, job.name, job.config.save_total_limit)
    found = checkpoints.resume()
    if found:
        learner.load(found.folder)
    with (
        stop_requests(setup.roles.device_policy.device) as request,
        Curves(job.work, job.name, job.config.report_to, found.folder if found else None) as curves,
    ):
        loop = Loop(setup, rows, stop, learner, checkpoints, curves, request)
        loop.run(job.name, found.step if found else 0)


def make_step(
    setup: Setup,
    learner: Learner,
    rows: Sequence[int],
    stop: int,
    step: int,
    halt: Halt = NEVER,
) -> tuple[Experience, dict[str, Any]]:
    """Rolls out one batch, scores it and learns from it.

    Args:
        setup: What stays the same from batch to batch.
        learner: What changes.
        rows: Prompts to choose from.
        stop: The token that ends a turn.
        step: Number of the batch, from 0.
        halt: Whether to give the batch up in the middle.

    Returns:
        The batch, and what is worth watching.
    """
    config = setup.config
    chosen = prompt_rows(rows, step, config.rollout_batch_size // config.num_generations, setup.seed)
    sampling = Sampling(config.max_completion_length, (stop,), config.temperature, setup.seed, step)
    rollout = roll_out(setup.roles, setup.prompts, chosen, sampling, config.num_generations, config.eval_tokens, halt)
    halt.settle()
    experience = gather_experience(setup, rollout, learner.controller.beta, step, halt)
    halt.settle()
    values = {
        **summary(experience),
        "lr": learner.optimizers.scheduler.get_last_lr()[0],
        **update(setup.roles, experience, learner.optimizers, config, step, setup.seed, halt),
    }
    learner.controller.update(values["kl"], len(rollout))
    return experience, values


class Loop:
    """One rollout batch after the other.

    Args:
        setup: What stays the same from batch to batch.
        rows: Prompts to roll out.
        stop: The token that ends a turn.
        learner: What changes.
        checkpoints: Where it is kept.
        curves: Where values go.
        request: Says whether the process was told to stop.
    """

    def __init__(
        self,
        setup: Setup,
        rows: Sequence[int],
        stop: int,
        learner: Learner,
        checkpoints: Checkpoints,
        curves: Curves,
        request: StopRequest,
    ) -> None:
        self._setup, self._rows, self._stop, self._learner = setup, rows, stop, learner
        self._checkpoints, self._curves, self._request = checkpoints, curves, request
        self._tokens = 0

    def run(self, name: str, start: int) -> None:
        """Makes all steps from a given one on; `name` is for progress lines."""
        config = self._setup.config
        critic = ("value_loss",) if self._setup.roles.value_head is not None else ()
        shown = ("reward", *(f.name for f in self._setup.functions), "kl", "policy_loss", *critic, "lr")
        progress = Progress(name, config.max_steps, start, every=config.logging_steps)
        for step in range(start, config.max_steps):
            experience, values = make_step(self._setup, self._learner, self._rows, self._stop, step, self._halt(step))
            self._tokens += sum(map(len, experience.rollout.sequences))
            done = step + 1
            self._curves.write(done, values)
            if done % config.logging_steps == 0:
                self._write_texts(done, experience)
            progress.step(done, {key: values[key] for key in shown}, tokens=self._tokens)
            if done % config.save_steps == 0 or done == config.max_steps:
                self._save(done)
            self._end_if_asked(done)

    def _halt(self, step: int) -> Halt:
        """Gives a batch up, wherever it is, for a checkpoint of what was there before it."""
        # An update cannot be undone, and the main process's checkpoint is the only one.
        before = self._learner.snapshot() if distributed.is_main() else None
        return Halt(lambda: self._request.asked, partial(self._end_if_asked, step, before))

    def _write_texts(self, step: int, experience: Experience) -> None:
        """Keeps a few completions of a batch, so that one can see what is being rewarded."""
        rollout, worth, setup = experience.rollout, experience.worth, self._setup
        for i in range(min(setup.config.num_samples, len(rollout))):
            values = {"reward": worth.scores[i], **{name: values[i] for name, values in worth.functions.items()}}
            texts = {"prompt": setup.prompts.question(rollout.rows[i]), "answer": setup.decode(rollout.completions[i])}
            self._curves.write_text(step, {**texts, **{name: round(float(v), 4) for name, v in values.items()}})

    def _save(self, step: int, state: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint, of what there is now or of a copy that was made before."""
        if distributed.is_main():
            with self._checkpoints.writing(step) as folder:
                if state is None:
                    self._learner.save(folder)
                else:
                    write_state(state, folder)
                self._curves.save(folder)

    def _end_if_asked(self, step: int, state: dict[str, Any] | None = None) -> None:
        if self._request.agreed():
            self._save(step, state)
            raise stopped("rl", step)
