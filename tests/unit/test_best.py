"""Best weights on held-out data, and stopping early."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from components.common.best import BestWeights
from components.common.errors import UserError
from components.common.training import TrainingConfig

SETTINGS = TrainingConfig(eval_steps=2, load_best_model_at_end=True, early_stopping_patience=2)


def watched(losses: list[float], config: TrainingConfig = SETTINGS) -> tuple[BestWeights, nn.Linear]:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    remaining = iter(losses)
    return BestWeights(model, config, lambda: next(remaining)), model


def train_to(best: BestWeights, model: nn.Linear, steps: range) -> list[int]:
    """Pretends to train: a step's weights are its number. Returns the steps after which nothing more was hoped for."""
    ended = []
    for step in steps:
        nn.init.constant_(model.weight, step)
        if best.due(step):
            best.look(step)
            if best.exhausted:
                ended.append(step)
    return ended


def test_the_best_weights_are_taken_and_no_gain_ends_training():
    best, model = watched([3.0, 1.0, 2.0, 1.5])
    assert train_to(best, model, range(1, 9)) == [8]
    assert best.take() == 4
    assert model.weight.tolist() == [[4.0, 4.0]]


def test_what_is_known_survives_a_checkpoint(tmp_path: Path):
    best, model = watched([3.0, 1.0])
    train_to(best, model, range(1, 5))
    best.save(tmp_path)
    resumed, model = watched([2.0, 1.5])
    resumed.load(tmp_path)
    assert train_to(resumed, model, range(5, 9)) == [8]
    assert resumed.take() == 4
    assert model.weight.tolist() == [[4.0, 4.0]]


def test_without_the_setting_the_last_weights_stay():
    best, model = watched([1.0, 2.0], TrainingConfig(eval_steps=2))
    assert train_to(best, model, range(1, 5)) == []
    assert best.take() is None
    assert torch.equal(model.weight, torch.full((1, 2), 4.0))


@pytest.mark.parametrize("field", ["load_best_model_at_end", "early_stopping_patience"])
def test_choosing_needs_measurements(field):
    with pytest.raises(ValueError, match="need eval_steps"):
        TrainingConfig.model_validate({field: 1})


class Recorder:
    """A tracker as accelerate makes them."""

    requires_logging_directory = False
    made: ClassVar[list[Recorder]] = []

    def __init__(self, run: str) -> None:
        self.run, self.values, self.ended = run, [], False
        Recorder.made.append(self)

    def start(self) -> None:
        self.values = []

    def log(self, values: dict, step: int) -> None:
        self.values.append((step, values))

    def finish(self) -> None:
        self.ended = True


def test_curves_go_to_trackers(tmp_path: Path, monkeypatch):
    from accelerate import tracking

    from components.common.curves import Curves

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    with Curves(tmp_path / "run", "sft", ["wandb"]) as curves:
        curves.write(1, {"loss": 2.0, "lr": float("nan")})
    (tracker,) = Recorder.made
    assert (tracker.run, tracker.values, tracker.ended) == ("sft-run", [(1, {"loss": 2.0})], True)
    with pytest.raises(UserError, match=r"sft\.report_to: mlflow is not installed"):
        Curves(tmp_path / "run", "sft", ["mlflow"])
    with pytest.raises(UserError, match=r"sft\.report_to: no tracker wandbb"):
        Curves(tmp_path / "run", "sft", ["wandbb"])
