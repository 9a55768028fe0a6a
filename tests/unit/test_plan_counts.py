"""Models are counted as transformers builds them, and what their layers keep as autograd keeps it."""

from __future__ import annotations

import pytest
import torch
import transformers

from components.common.errors import InputError, UserError
from components.common.forward_pass import backbone
from components.common.trainables import lora_targets, parameter_count
from components.common.training import LoraSettings
from components.prepare.config import ModelConfig, RunConfig, ScratchModel
from pipelines.plan.activations import Batch, Numerics, kept, layer_kept
from pipelines.plan.architecture import read_architecture
from pipelines.plan.base import base_fields, read_base
from pipelines.plan.stages import Machine, stage_memory
from tests.support.models import FAMILIES, tiny_config
from tests.support.planning import LLAMA_1B, LLAMA_7B, folder_of


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

    from components.common.trainables import lora_config

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

    from components.common.trainables import float32_trainables, lora_config

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


def test_the_numbers_that_are_copied_from_training_are_the_same():
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from components.common import evaluation, label_head
    from pipelines.plan import parts

    assert parts.LOGITS_AT_ONCE == label_head.LOGITS_AT_ONCE
    assert parts.HEAD_ROWS == evaluation.HEAD_ROWS
    assert (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE) == parts.TRL_TILE
