"""Two processes train, and one of them has less memory, or overflows: both do the same, and none waits for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import python
from tests.support.trained_rank import FIRST_SCALE, save_model

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.support.trained_rank")


def both(tokenizer: Any, folder: Path, what: str, stage: str) -> list[dict[str, Any]]:
    """What the two processes found."""
    save_model(tokenizer, folder)
    result = python(*TORCHRUN, what, stage, str(folder), timeout=240)
    assert result.returncode == 0, result.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_one_process_is_short_of_memory(stage, tokenizer, tmp_path):
    first, second = both(tokenizer, tmp_path, "memory", stage)
    assert first == second == {"rows": 2, "tried": [4, 2]}


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_an_overflow_on_one_process_skips_the_step_on_both(stage, tokenizer, tmp_path):
    first, second = both(tokenizer, tmp_path, "once", stage)
    assert first["states"] == second["states"]
    weights, scales = zip(*first["states"], strict=True)
    assert weights[1] == weights[0]
    assert len({*weights[1:]}) == 3
    assert scales == (FIRST_SCALE, FIRST_SCALE / 2, FIRST_SCALE / 2, FIRST_SCALE / 2)
    assert first["skipped"] == [0, 1, 0, 0]
    rates = first["lr"]
    assert rates[1] == rates[2] > rates[3]  # the schedule waits for the step that was skipped


def test_overflows_in_a_row_end_training_on_both(tokenizer, tmp_path):
    first, second = both(tokenizer, tmp_path, "always", "sft")
    assert first["said"] == second["said"]
    assert "sft: 3 steps in a row were skipped: their gradients overflow float16" in first["said"]
