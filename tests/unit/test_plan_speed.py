"""What `rlhf plan` says of time: tokens a second, and what goes over the network."""

from __future__ import annotations

import pytest

from components.prepare.config import RunConfig
from components.prepare.resolve import Request, resolve
from pipelines.plan.architecture import read_architecture
from pipelines.plan.base import read_base
from pipelines.plan.report import as_dict, plan_run
from pipelines.plan.speed import stage_speed
from pipelines.plan.stages import Machine
from pipelines.plan.t4 import Gpu
from tests.support.planning import LLAMA_1B, LLAMA_7B, folder_of


def test_gathering_weights_over_pcie_takes_time():
    config = RunConfig.model_validate({"sft": {"sharding": "fsdp2"}, "data": {"sft": {"max_length": 128}}})
    model = read_architecture(LLAMA_7B, "x")
    slow, fast = (stage_speed("sft", model, config, Machine(4), Gpu(link=link)) for link in (1e9, 1e12))
    assert slow.tokens == pytest.approx(4 * 128 / (2 * 0.75 * 2 * model.parameters / 1e9))
    assert fast.tokens > slow.tokens


def test_small_models_are_held_up_by_their_kernels_and_large_ones_by_arithmetic():
    config = RunConfig.model_validate({"data": {"sft": {"max_length": 1024}}})
    machine = Machine(4)

    def rate(fields, gpu):
        return stage_speed("sft", read_architecture(fields, "x"), config, machine, gpu).tokens

    tiny = {**LLAMA_1B, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    fast = Gpu(flops=48e12)
    assert rate(tiny, fast) == rate(tiny, Gpu())
    assert rate(LLAMA_1B, fast) == pytest.approx(2 * rate(LLAMA_1B, Gpu()))
    assert rate(LLAMA_1B, Gpu()) == pytest.approx(
        14_000, rel=0.2
    )  # 4 GPUs · 0.7 · 24e12 / (4 · 1.1e9), attention aside


def test_transfers_are_the_models_that_are_fetched_and_the_adapters_and_checkpoints_that_are_sent(tmp_path):
    """Counted by hand for TinyLlama: rank 16 on all seven linear layers of 22 blocks, float16 weights."""
    model = 2 * 1_100_048_384
    adapter = 4 * 16 * 22 * (2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 5632))
    head = 4 * 2048
    source = folder_of(LLAMA_1B, tmp_path / "model")

    def transfers(overrides=""):
        config = resolve(Request("t4x4-1b", model=source, overrides=overrides))
        made = plan_run(read_base(config.model), config, "rlhf", Gpu())
        shown = {stage["stage"]: (stage["download"], stage["upload"]) for stage in as_dict(made)["stages"]}
        assert shown == {stage.memory.stage: (stage.download, stage.upload) for stage in made.stages}
        return shown

    checkpoint = 3  # weights and two moments
    assert transfers() == {
        "pretrain": (model, adapter + 2 * checkpoint * adapter),
        "sft": (model, adapter + 2 * checkpoint * adapter),
        "reward": (model, (1 + 2 * checkpoint) * (adapter + head)),
        "rl": (model + adapter, adapter + 20 * checkpoint * 2 * adapter),  # 200 steps; the critic is saved, not kept
        "evaluate": (3 * model, 0),
    }
    changed = transfers("pretrain.lora=null\nsft.max_steps=50\nsft.save_steps=20\nrl.max_steps=20")
    assert changed["pretrain"] == (model, model + 2 * checkpoint * 2 * model)  # in float32 while it trains
    assert changed["sft"] == (model, adapter + 3 * checkpoint * adapter)
    assert changed["rl"] == (model + adapter, adapter + 2 * checkpoint * 2 * adapter)
