"""What several processes compute together."""

from __future__ import annotations

from tests.support.commands import python


def test_four_processes_that_go_on_from_a_checkpoint_add_up_as_if_they_were_never_stopped():
    """With two it would be so in any case: the order of two numbers does not matter to their sum."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    result = python(*torchrun, "-m", "tests.support.resumed_ddp")
    assert result.returncode == 0, result.stdout + result.stderr
