"""`rlhf plan`: what fits, and what does not, which comes with what would."""

from __future__ import annotations

import json

import pytest

from components.prepare.resolve import Request, resolve
from pipelines.plan.base import read_base
from pipelines.plan.report import plan_run
from pipelines.plan.t4 import GIB, Gpu
from pipelines.plan.table import aligned, as_text
from tests.support.commands import python, rlhf
from tests.support.planning import LLAMA_1B, LLAMA_7B, folder_of, plan


def test_seven_billion_parameters_fit_t4s_split_among_them_or_in_four_bits(tmp_path):
    made = plan(LLAMA_7B, tmp_path, data={"sft": {"max_length": 1024}})
    sft, rl = (next(s for s in made.stages if s.memory.stage == name) for name in ("sft", "rl"))
    assert not sft.fits
    assert "sft.sharding=fsdp2" in sft.advice.overrides
    assert not any("4bit" in override for override in sft.advice.overrides)
    assert sft.advice.total <= 14.5 * GIB
    assert "rl.load_in_4bit=true" in rl.advice.overrides  # it cannot be split


def test_alone_a_gpu_has_nobody_to_share_with(tmp_path):
    made = plan(LLAMA_7B, tmp_path, launcher={"gpus_per_node": 1})
    sft = next(stage for stage in made.stages if stage.memory.stage == "sft")
    assert "sft.load_in_4bit=true" in sft.advice.overrides
    assert "sft.sharding=fsdp2" not in sft.advice.overrides


def test_the_mildest_change_that_is_enough_is_advised(tmp_path):
    data = {"pretrain": {"max_length": 2048}}
    many = {"per_device_train_batch_size": 8, "train_batch_size": 64}
    made = plan(LLAMA_1B, tmp_path, data=data, pretrain=many)
    (stage,) = (stage for stage in made.stages if stage.memory.stage == "pretrain")
    assert stage.advice.overrides == ("pretrain.per_device_train_batch_size=2",)
    section = {**many, "per_device_train_batch_size": 2}
    (tmp_path / "again").mkdir()
    again = plan(LLAMA_1B, tmp_path / "again", data=data, pretrain=section)
    assert next(s for s in again.stages if s.memory.stage == "pretrain").total == stage.advice.total


def test_where_nothing_helps_that_is_said(tmp_path):
    made = plan(LLAMA_7B, tmp_path, memory=2)
    assert {stage.advice for stage in made.stages} == {None}


def test_a_larger_adapter_a_longer_row_and_more_rows_take_more(tmp_path):
    def total(**changes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return next(s.total for s in plan(LLAMA_1B, folder, **changes).stages if s.memory.stage == "sft")

    plain = total()
    assert total(sft={"lora": {"r": 64}}) > plain
    assert total(data={"sft": {"max_length": 1500}}) > plain
    assert total(sft={"per_device_train_batch_size": 2}) > plain
    assert total(sft={"activation_checkpointing": True}) < plain


def test_stages_that_are_off_and_those_of_another_pipeline_are_left_out(tmp_path):
    made = plan(LLAMA_1B, tmp_path, pipeline="dpo", pretrain={"enabled": False})
    assert [stage.memory.stage for stage in made.stages] == ["sft", "dpo", "evaluate"]


def test_the_copies_that_merged_rollouts_need_are_counted(tmp_path):
    (tmp_path / "off").mkdir()
    made = plan(LLAMA_1B, tmp_path, rl={"merged_rollout": True, "lora": {"target_modules": ["q_proj", "v_proj"]}})
    (rl,) = (stage.memory for stage in made.stages if stage.memory.stage == "rl")
    assert rl.copied == 2 * 22 * (2048 * 2048 + 2048 * 256)
    assert "rl keeps 0.19 GiB more in main memory for each process: merged_rollout" in as_text(made).splitlines()
    without = plan(LLAMA_1B, tmp_path / "off")
    assert [stage.memory.copied for stage in without.stages] == [0] * len(without.stages)
    assert "main memory" not in as_text(without)


def test_columns_are_aligned():
    assert aligned([("a", "long", "c"), ("name", "1", "22")]) == ["a     long   c", "name     1  22"]


def test_the_command_prints_tables_and_json_and_starts_nothing(tmp_path):
    source = folder_of(LLAMA_1B, tmp_path / "model")
    arguments = ("plan", "-p", "t4x4-1b", "--model", source)
    shown = rlhf(*arguments, cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    table = shown.stdout.split("\n\n")[1].splitlines()
    assert len({len(line) for line in table}) == 1
    fields = json.loads(rlhf(*arguments, "--json", cwd=tmp_path).stdout)
    assert [stage["stage"] for stage in fields["stages"]] == ["pretrain", "sft", "reward", "rl", "evaluate"]
    for stage in fields["stages"]:
        assert stage["total"] == pytest.approx(max(stage["moments"].values()))
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


MISTRAL = {**LLAMA_7B, "intermediate_size": 14336, "num_key_value_heads": 8, "model_type": "mistral"}
SMOLLM3 = {
    **LLAMA_7B,
    "model_type": "smollm3",
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("pipeline", ["rlhf", "dpo"])
@pytest.mark.parametrize(
    ("preset", "fields"),
    [("t4x4-1b", LLAMA_1B), ("t4x4-3b", SMOLLM3), ("t4x4-7b-qlora", MISTRAL), ("t4x4-7b-fsdp2", MISTRAL)],
)
def test_the_presets_for_t4s_fit_the_models_they_name(preset, fields, pipeline, tmp_path):
    config = resolve(Request(preset, model=folder_of(fields, tmp_path / "model"), pipeline=pipeline))
    made = plan_run(read_base(config.model), config, pipeline, Gpu())
    assert made.fits, [(stage.memory.stage, stage.total / GIB) for stage in made.stages if not stage.fits]


def test_what_does_not_fit_is_exit_code_2_with_what_would(tmp_path):
    source = folder_of(LLAMA_7B, tmp_path / "model")
    shown = rlhf("plan", "--model", source, "launcher.gpus_per_node=4", "data.sft.max_length=512", cwd=tmp_path)
    assert shown.returncode == 2
    assert "sft fits, in " in shown.stdout
    assert "sft.sharding=fsdp2" in shown.stdout


def test_planning_loads_no_torch():
    code = "import sys; import pipelines.plan.report, pipelines.plan.base; print('torch' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"
