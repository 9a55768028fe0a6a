"""A model split between two processes computes, learns and is saved as a whole one."""

from __future__ import annotations

import json

import pytest
import torch

from components.common.config import validate
from components.common.device import DevicePolicy
from components.common.errors import UserError
from components.common.sharding import build_sharded, fill, is_sharded, local, whole
from components.dpo.config import DpoConfig
from components.rl.config import RlConfig
from components.sft.config import SftConfig
from tests.support.commands import ROOT, python

POLICY = DevicePolicy(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found for each case."""
    folder = tmp_path_factory.mktemp("ranks")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = python(*launcher, str(ROOT / "tests" / "support" / "sharded_rank.py"), str(folder))
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return {case["case"]: (case, other) for case, other in zip(*ranks, strict=True)}


# Half precision rounds what is summed in another order; in `mixed` the whole model computes in float32.
@pytest.mark.parametrize(
    ("case", "apart"), [("lora", 1e-6), ("bloom", 1e-6), ("full", 1e-6), ("half", 2e-3), ("mixed", 2e-2)]
)
def test_it_gives_the_answers_gradients_and_steps_of_a_whole_one(found, case, apart):
    for rank in found[case]:
        # Though the processes write different numbers of tokens, in different batches.
        assert rank["same_answers"] or case == "mixed"
        assert rank["gradients_apart"] < apart
        assert rank["moved"] == [True, False, True]  # the second step overflows on one process, and is skipped on both
        assert rank["weights_apart"] < apart
        assert rank["largest_share"] < 0.7


@pytest.mark.parametrize("case", ["lora", "full"])
def test_its_state_is_gathered_whole_and_split_again_bit_by_bit(found, case):
    first, second = found[case]
    assert first["state_survives"]
    assert second["state_survives"]
    assert first["state_is_whole"]
    assert first["names"] > 0
    assert second["names"] == 0  # one process writes


def test_tied_weights_stay_tied(found):
    assert found["full"][0]["tied"]


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(UserError, match=r"sft\.sharding=fsdp2: .*only one.*sft\.sharding=none.*--nproc"):
        build_sharded("sft", POLICY, lambda _: pytest.fail("a model was built"))


def test_weights_in_four_bits_are_refused():
    with pytest.raises(ValueError, match="sharding cannot split weights in 4 bits"):
        SftConfig(sharding="fsdp2", load_in_4bit=True)


def test_rl_is_not_split():
    with pytest.raises(UserError, match=r"rl\.sharding: unknown field"):
        validate(RlConfig, {"sharding": "fsdp2"}, "rl", "run.yaml")


@pytest.mark.parametrize("config", [SftConfig, DpoConfig])
def test_sharding_does_not_change_a_key(config):
    assert config(sharding="fsdp2").for_key() == config().for_key()


def test_of_a_model_that_is_not_split_everything_is_here():
    layer = torch.nn.Linear(3, 2)
    assert not is_sharded(layer)
    assert whole(layer.weight) is layer.weight
    fill(layer.weight, torch.ones(2, 3))
    assert torch.equal(local(layer.weight), torch.ones(2, 3))
