"""Run by torchrun: stages' own training on two processes of which the second has less memory, or overflows."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.common import distributed, overflow, trainer
from components.common.causal import Tables, build_causal_lm
from components.common.curves import FILE
from components.common.errors import UserError
from components.common.guard import end_rank
from components.common.micro_batch import fitting
from components.common.packed import train_packed
from components.prepare.config import RunConfig
from tests.support.memory import StubJob, pairs, table
from tests.support.models import tiny_model

CPU = torch.device("cpu")
MAKE = trainer._make_trainer
VOCAB, LENGTH, STEPS = 400, 12, 4
FIRST_SCALE = 4.0
RUN = {
    "max_steps": STEPS,
    "train_batch_size": 8,
    "per_device_train_batch_size": 4,
    "eval_tokens": 64,
    "learning_rate": 1e-2,
    "lora": {"r": 2, "lora_dropout": 0.0},
}
ENOUGH = 2  # rows that the second process has memory for


def save_model(tokenizer: Any, folder: Path) -> None:
    """The tiny model of all these trainings; transformers saves on one process only."""
    tiny_model("llama", tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def job_of(stage: str, folder: Path) -> StubJob:
    """A job of a stage on the tiny model."""
    more = {"num_eval_prompts": 0} if stage in ("sft", "dpo") else {}
    config = getattr(RunConfig.model_validate({stage: {**RUN, **more}}), stage)
    return StubJob(config, stage, folder / "work" / stage / "key" / "r", folder / "model")


def train(job: StubJob) -> Any:
    """Trains as the stage does; returns its model."""
    if job.name in ("pretrain", "sft"):
        built = build_causal_lm(job)
        tables = Tables(table(32, LENGTH, VOCAB, width=LENGTH), table(2, LENGTH, VOCAB))
        train_packed(job, built.model, tables, built.policy)
    elif job.name == "reward":
        from components.reward import stage

        built = stage.build_model(job)
        stage.train(job, built, stage.Data(pairs(32, LENGTH, VOCAB), pairs(2, LENGTH, VOCAB)))
    else:
        from components.dpo import stage

        built = stage.build_model(job)
        data = stage.Data(pairs(32, LENGTH, VOCAB), pairs(2, LENGTH, VOCAB), [])
        stage.train(job, built, data, stage.LogProbs(np.zeros(2), np.zeros(2)))
    return built.model


def short_of_memory(stage: str, folder: Path) -> dict[str, Any]:
    """How many rows a stage tries when the second process has memory for two rows only."""
    tried: list[int] = []
    found: list[int] = []

    def instead(training: trainer.Training) -> None:
        def limited(*_: Any) -> None:
            if distributed.rank() == 1 and tried[-1] > ENOUGH:
                raise torch.OutOfMemoryError("CUDA out of memory")

        def attempt(rows: int) -> None:
            tried.append(rows)
            trainer.try_longest(training, rows)

        training.model.get_input_embeddings().register_forward_pre_hook(limited)
        found.append(fitting(stage, 4, attempt, CPU))

    module = sys.modules[f"components.{stage}.stage"]
    module.run_trainer, before = instead, module.run_trainer
    train(job_of(stage, folder))
    module.run_trainer = before
    return {"rows": found[0], "tried": tried}


class Overflowing:
    """Makes an optimizer step of the second process infinite.

    Args:
        steps: Which steps, from 0.
    """

    def __init__(self, steps: set[int]) -> None:
        self._steps, self.scaler = steps, torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE)
        self.states: list[list[float]] = []

    def make(self, training: trainer.Training, limit: int, callback: Any) -> Any:
        """In place of `trainer._make_trainer`: a float16 trainer, which accelerate refuses to make on a CPU."""
        made = MAKE(training, limit, callback)
        made.args.fp16 = True
        made.accelerator.scaler = self.scaler
        made.accelerator.native_amp = True
        made.accelerator.state._mixed_precision = "fp16"
        trained = [p for p in training.model.parameters() if p.requires_grad]
        trained[0].register_hook(lambda grad: self._spoil(grad, made.state.global_step))
        on_step_end = callback.on_step_end

        def kept(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.states.append([sum(p.detach().double().abs().sum().item() for p in trained), self.scaler.get_scale()])
            on_step_end(args, state, control, **kwargs)

        callback.on_step_end = kept
        return made

    def _spoil(self, grad: torch.Tensor, step: int) -> torch.Tensor:
        return torch.full_like(grad, float("inf")) if distributed.rank() == 1 and step in self._steps else grad


def overflowing(stage: str, folder: Path, steps: set[int]) -> dict[str, Any]:
    """Weights, scale and curve of each step, and how it ended."""
    watched = Overflowing(steps)
    trainer._make_trainer = watched.make
    job = job_of(stage, folder)
    said = ""
    try:
        train(job)
    except UserError as error:
        said = str(error)
    curve = [json.loads(line) for line in (job.work / FILE).read_text().splitlines()]
    columns = {name: [step.get(name) for step in curve] for name in ("skipped", "lr")}
    return {"states": watched.states, "said": said, **columns}


def main(what: str, stage: str, folder: Path) -> None:
    """Writes what was found, a file for each process."""
    distributed.start(CPU)
    torch.manual_seed(0)
    if what == "memory":
        importlib.import_module(f"components.{stage}.stage")
        found = short_of_memory(stage, folder)
    else:
        overflow.PATIENCE = 3
        found = overflowing(stage, folder, {1} if what == "once" else {1, 2, 3})
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    end_rank(0)
