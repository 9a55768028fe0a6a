"""float16 on several GPUs: an overflow on one is one on all."""

import json

import pytest

from components.common.errors import UserError
from components.common.overflow import PATIENCE, OverflowWatch
from tests.support.commands import ROOT, python


def test_an_overflow_on_one_process_skips_the_step_on_both(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = python(*launcher, str(ROOT / "tests" / "support" / "overflowing_rank.py"), str(tmp_path))
    assert result.returncode == 0, result.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    before, overflow, after = first
    # A step takes its learning rate × (1 + 2), the sum of both processes' gradients. The second takes nothing, and the
    # schedule waits for it.
    assert [step["lr"] for step in first] == pytest.approx([0.1, 0.075, 0.075])
    assert before["weights"] == pytest.approx([0.7] * 5)
    assert overflow["weights"] == before["weights"]
    assert after["weights"] == pytest.approx([0.475] * 5)
    assert [step["skipped"] for step in first] == [0, 1, 0]
    assert [step["scale"] for step in first] == [4, 2, 2]


def test_steps_skipped_in_a_row_end_a_stage():
    watch = OverflowWatch("sft")
    for _ in range(PATIENCE - 1):
        watch.step(skipped=True)
    watch.step(skipped=False)
    for _ in range(PATIENCE - 1):
        watch.step(skipped=True)
    with pytest.raises(UserError, match=r"25 steps in a row were skipped.*lower sft\.learning_rate"):
        watch.step(skipped=True)
