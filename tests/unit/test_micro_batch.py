"""Fewer rows at once where memory is short, the same global batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.common.errors import UserError
from components.common.micro_batch import fitting, reckoned, try_gradients
from components.common.trainer_arguments import batch_shape
from components.common.training import TrainingConfig

CPU = torch.device("cpu")


def memory_for(limit: int, tried: list[int]):
    def attempt(rows: int) -> None:
        tried.append(rows)
        if rows > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return attempt


def test_rows_are_halved_until_they_fit(capsys):
    tried: list[int] = []
    rows = fitting("sft", 12, memory_for(3, tried), CPU)
    assert (rows, tried) == (3, [12, 6, 3])
    assert capsys.readouterr().out.splitlines() == [
        f"sft out of memory: trying per_device_train_batch_size={size}; the global batch stays" for size in (6, 3)
    ]
    config = TrainingConfig(train_batch_size=12, per_device_train_batch_size=12)
    assert [micro * steps for micro, steps in (batch_shape(config, 12), batch_shape(config, rows))] == [12, 12]


def test_what_is_halved_has_its_own_name(capsys):
    assert fitting("rl", 4, memory_for(2, []), CPU, setting="eval_tokens", each=100) == 2
    assert capsys.readouterr().out == "rl out of memory: trying eval_tokens=200; the global batch stays\n"
    with pytest.raises(UserError, match=r"rl.eval_tokens=100: one row does not fit"):
        fitting("rl", 4, memory_for(0, []), CPU, setting="eval_tokens", each=100)


def test_one_row_that_does_not_fit_is_an_error():
    with pytest.raises(UserError, match=r"one row does not fit the GPU's memory.*activation_checkpointing=true"):
        fitting("reward", 2, memory_for(0, []), CPU)


@pytest.mark.parametrize(("free", "rows"), [(1000, 8), (799, 4), (399, 2), (150, 1), (50, 1)])
def test_a_split_model_tries_one_row_and_reckons_the_others(free, rows, capsys):
    tried: list[int] = []

    def attempt(number: int) -> int:
        tried.append(number)
        return 100

    assert reckoned("sft", 8, attempt, CPU, free) == rows
    assert tried == [1]
    said = f"sft short of memory: per_device_train_batch_size={rows}; the global batch stays\n" if rows < 8 else ""
    assert capsys.readouterr().out == said


def test_one_row_of_a_split_model_that_does_not_fit_is_an_error():
    def attempt(rows: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="one row does not fit the GPU's memory"):
        reckoned("sft", 2, attempt, CPU, 1000)


def test_another_fault_is_no_lack_of_memory():
    def attempt(rows: int) -> None:
        raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape is wrong"):
        fitting("sft", 2, attempt, CPU)


def test_no_gradient_stays():
    model = nn.Linear(2, 1)
    try_gradients(model, lambda: model(torch.ones(1, 2)).sum())
    assert model.weight.grad is None
    assert model.bias.grad is None
