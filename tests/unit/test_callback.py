"""What a trainer's values are looked at for."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from components.common.callback import StageCallback
from components.common.errors import UserError


@pytest.fixture
def log():
    """Gives the trainer's values of step 7 to a callback, and returns what came into the curves."""
    written = []
    job = SimpleNamespace(name="sft", config=SimpleNamespace(logging_steps=1))
    curves = SimpleNamespace(write=lambda step, values: written.append(values))
    callback = StageCallback(job, curves, None, None, None)
    state = SimpleNamespace(max_steps=10, global_step=7)
    callback.on_train_begin(None, state, None, optimizer=SimpleNamespace(scaler=None))

    def give(**values):
        callback.on_log(None, state, None, logs=values)
        return written[-1]

    return give


@pytest.mark.parametrize("accuracy", [0.0, 0.99])
def test_a_loss_of_nothing_ends_training(log, accuracy):
    with pytest.raises(UserError, match=r"sft: the loss is exactly 0 at step 7.*data\.sft") as caught:
        log(loss=0.0, mean_token_accuracy=accuracy)
    assert caught.value.code == 2


def test_a_loss_that_is_no_number_ends_training(log):
    with pytest.raises(UserError, match="sft: the loss is nan at step 7"):
        log(loss=math.nan, mean_token_accuracy=0.5)


def test_small_losses_go_on_and_so_do_those_of_stages_without_tokens(log):
    assert log(loss=1e-30, mean_token_accuracy=1.0)["loss"] == 1e-30
    assert log(loss=0.0, mean_token_accuracy=1.0)["loss"] == 0  # all is known by heart
    assert log(loss=0.0)["loss"] == 0  # a hinge loss of pairs that are far enough apart
