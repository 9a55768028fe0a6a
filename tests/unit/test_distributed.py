"""What several processes compute together, and how they part."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from components.common import distributed
from tests.support.commands import python


def test_four_processes_that_go_on_from_a_checkpoint_add_up_as_if_they_were_never_stopped():
    """With two it would be so in any case: the order of two numbers does not matter to their sum."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    result = python(*torchrun, "-m", "tests.support.resumed_ddp")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def group(tmp_path):
    """A group of one process; NCCL would need a GPU."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize(("backend", "stays"), [("gloo", True), ("nccl", False)])
def test_the_group_of_nccl_is_destroyed_and_that_of_gloo_left_alone(group, monkeypatch, backend, stays):
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    distributed.leave()
    assert dist.is_initialized() == stays


def test_one_process_has_no_group_to_leave():
    distributed.leave()
    assert not dist.is_initialized()
