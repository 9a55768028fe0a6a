"""`rlhf plan`: models are counted as transformers builds them, and what does not fit comes with what would."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from components.common.errors import InputError, UserError
from components.common.evaluation import backbone
from components.common.models import lora_targets, parameter_count
from components.common.training import LoraSettings
from components.prepare.config import ModelConfig, RunConfig, ScratchModel
from components.prepare.resolve import Request, resolve
from pipelines.plan.activations import Batch, Numerics, kept, layer_kept
from pipelines.plan.architecture import read_architecture
from pipelines.plan.base import base_fields, read_base
from pipelines.plan.report import as_dict, plan_run
from pipelines.plan.speed import stage_speed
from pipelines.plan.stages import Machine, stage_memory
from pipelines.plan.t4 import GIB, Gpu
from pipelines.plan.table import aligned, as_text
from tests.support.commands import python, rlhf
from tests.support.models import FAMILIES, tiny_config

LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "torch_dtype": "float16",
}
LLAMA_1B = {
    **LLAMA_7B,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
}


def folder_of(fields, path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(fields))
    return str(path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_targets_are_those_of_the_model(family, tied, tokenizer):
    config = tiny_config(family, tokenizer, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = read_architecture(config.to_dict(), family)
    assert shape.known
    assert shape.parameters == parameter_count(model)
    assert sorted(linear.name for linear in shape.lora_targets()) == lora_targets(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_has_the_parameters_that_peft_gives_it(family, tokenizer):
    from peft import get_peft_model

    from components.common.models import lora_config

    config = tiny_config(family, tokenizer)
    model = transformers.AutoModelForCausalLM.from_config(config)
    adapted = get_peft_model(model, lora_config(model, LoraSettings(r=3), "CAUSAL_LM"))
    shape = read_architecture(config.to_dict(), family)
    assert shape.lora_parameters(3) == parameter_count(adapted, trainable=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_from_scratch_has_the_shape_that_prepare_gives_it(family, tokenizer):
    from components.prepare.scratch import make_config

    scratch = ScratchModel(model_type=family, vocab_size=len(tokenizer))
    made = read_architecture(make_config(scratch, tokenizer).to_dict(), family)
    assert read_architecture(base_fields(ModelConfig(scratch=scratch)), "scratch") == made


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no configuration of a causal language model.*config\.json"):
        read_base(ModelConfig(source=folder_of({"model_type": "llama"}, tmp_path / "a")))
    with pytest.raises(UserError, match="mixture of experts"):
        read_base(ModelConfig(source=folder_of({**LLAMA_1B, "num_local_experts": 8}, tmp_path / "b")))
    with pytest.raises(UserError, match=r"lora\.target_modules: wrong matches no linear layer; there are down_proj"):
        read_architecture(LLAMA_1B, "x").lora_targets(("wrong",))


def test_float16_keeps_more_tensors_but_fewer_bytes_and_checkpoints_keep_least():
    model, batch = read_architecture(LLAMA_1B, "x"), Batch(1, 2048)
    half, single = kept(model, Numerics(2), batch), kept(model, Numerics(4), batch)
    assert single / 2 < half < single  # adapters get copies of their inputs
    assert kept(model, Numerics(2, quantised=True), batch) < half  # there they share them
    assert kept(model, Numerics(2, checkpointing=True), batch) < half / 10


def saved_bytes(model, batch, *, half):
    """Bytes of what autograd keeps of a forward pass through a model's layers, parameters and their casts aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters() if p.dim() == 2}
    shapes |= {shape[::-1] for shape in shapes}
    kept_storages, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        alive.append(tensor)
        if storage.data_ptr() not in parameters and not (half and tuple(tensor.shape) in shapes):
            kept_storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.ones(batch.rows, batch.length, dtype=torch.long)
    positions = torch.arange(batch.length).remainder(batch.length // 2).expand(batch.rows, -1)  # two sequences a row
    given = {} if model.config.model_type == "bloom" else {"position_ids": positions}
    with (
        torch.autocast("cpu", dtype=torch.float16, enabled=half),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        backbone(model)(input_ids=ids, use_cache=False, **given)
    return sum(kept_storages.values())


# Autocast on a CPU leaves bloom's LayerNorm in half precision, on a GPU it does not.
@pytest.mark.parametrize(
    ("family", "half"), [*((name, False) for name in FAMILIES), *((n, True) for n in FAMILIES[:3])]
)
def test_what_layers_keep_is_counted_tensor_by_tensor(family, half, tokenizer):
    from peft import get_peft_model

    from components.common.models import float32_trainables, lora_config

    wide = {"hidden_size": 192, **({} if family == "bloom" else {"intermediate_size": 576})}
    heads = {"head_dim": 48} if family == "qwen3" else {}
    config = tiny_config(family, tokenizer, **wide, **heads)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16 if half else torch.float32)
    adapted = get_peft_model(model, lora_config(model, LoraSettings(r=2), "CAUSAL_LM")).train()
    float32_trainables(adapted)
    batch = Batch(2, 50)
    shape, numerics = read_architecture(config.to_dict(), family), Numerics(2 if half else 4, r=2)
    counted = shape.layers * layer_kept(shape, numerics, batch)
    assert counted == pytest.approx(saved_bytes(adapted, batch, half=half), rel=0.03)


def plan(fields, tmp_path, memory=14.5, pipeline="rlhf", **changes):
    source = folder_of(fields, tmp_path / "model")
    config = RunConfig.model_validate({"model": {"source": source}, **changes})
    return plan_run(read_base(config.model), config, pipeline, Gpu(memory=memory * GIB))


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


@pytest.mark.parametrize("lora", [{"r": 16}, None])
def test_each_gpu_holds_its_share_and_what_is_gathered(lora):
    model = read_architecture(LLAMA_7B, "x")
    config = RunConfig.model_validate({"sft": {"lora": lora, "train_batch_size": 8}})

    def parts(sharding, processes=4):
        section = config.model_copy(update={"sft": config.sft.model_copy(update={"sharding": sharding})})
        memory = stage_memory("sft", model, section, Machine(processes))
        return next(moment.parts for moment in memory.moments if moment.name == "training")

    whole, split = parts("none", processes=1), parts("fsdp2")
    outside = 2 * 32000 * 4096 + 65 * 4096  # embedding, head, norms
    at_once = 2 * (outside + 2 * (model.parameters - outside) / 32)
    assert split["weights"] == pytest.approx(whole["weights"] / 4 + at_once, rel=1e-3)
    assert split["adapters"] == pytest.approx(whole["adapters"] / 4)
    assert split["optimizer"] == pytest.approx(whole["optimizer"] / 4)


def test_gathering_weights_over_pcie_takes_time():
    config = RunConfig.model_validate({"sft": {"sharding": "fsdp2"}, "data": {"sft": {"max_length": 128}}})
    model = read_architecture(LLAMA_7B, "x")
    slow, fast = (stage_speed("sft", model, config, Machine(4), Gpu(link=link)) for link in (1e9, 1e12))
    assert slow.tokens == pytest.approx(4 * 128 / (2 * 0.75 * 2 * model.parameters / 1e9))
    assert fast.tokens > slow.tokens


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


def test_what_does_not_fit_is_exit_code_2_with_what_would(tmp_path):
    source = folder_of(LLAMA_7B, tmp_path / "model")
    shown = rlhf("plan", "--model", source, "launcher.gpus_per_node=4", "data.sft.max_length=512", cwd=tmp_path)
    assert shown.returncode == 2
    assert "sft fits, in " in shown.stdout
    assert "sft.sharding=fsdp2" in shown.stdout


def test_planning_loads_no_torch():
    code = "import sys; import pipelines.plan.report, pipelines.plan.base; print('torch' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"


def test_the_numbers_that_are_copied_from_training_are_the_same():
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from components.common import evaluation, label_head
    from pipelines.plan import parts

    assert parts.LOGITS_AT_ONCE == label_head.LOGITS_AT_ONCE
    assert parts.HEAD_ROWS == evaluation.HEAD_ROWS
    assert (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE) == parts.TRL_TILE
