"""The merged model against float64, against PEFT and against the unmerged model, for every family, task and type."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from components.common.artifacts import Artifact
from components.common.models import save_tokenizer as store_tokenizer
from components.common.stage import Job, Plan, Result
from components.common.store import DirectoryStore
from components.common.tokenizer import prepare_tokenizer
from components.merge.adapter import scale_of
from components.merge.config import SPEC, MergeConfig
from components.merge.safetensors_file import DTYPE_SIZE, Layout, create, read_header
from components.merge.stage import run

WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**WIDE, "num_key_value_heads": 1},
    "qwen2": {**WIDE, "num_key_value_heads": 1},
    "qwen3": {**WIDE, "num_key_value_heads": 1, "head_dim": 16},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
}
VOCABULARY = 64
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
AUTO = {"CAUSAL_LM": AutoModelForCausalLM, "SEQ_CLS": AutoModelForSequenceClassification}
AUTO_PEFT = {"CAUSAL_LM": AutoPeftModelForCausalLM, "SEQ_CLS": AutoPeftModelForSequenceClassification}
FRACTION_BITS = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
SMALLEST_EXPONENT = {torch.float32: -126, torch.float16: -14, torch.bfloat16: -126}
TOKENS = torch.arange(24).reshape(2, 12) % VOCABULARY


@dataclass(frozen=True)
class Pair:
    """A base model and an adapter trained on it, in folders."""

    base: Path
    adapter: Path
    task: str
    dtype: torch.dtype = torch.float32


def save_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    vocabulary = {f"w{number}": number for number in range(size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w1", eos_token="w2", unk_token="w0")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def make_pair(
    folder: Path,
    family: str = "llama",
    task: str = "CAUSAL_LM",
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    shard: str = "1GB",
    **lora: Any,
) -> Pair:
    """Saves a random base and an adapter with random factors on all its linear layers."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        tie_word_embeddings=tied,
        pad_token_id=1,
        initializer_range=0.2,
        **FAMILIES[family],
    )
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder / "base", max_shard_size=shard)
    save_tokenizer(folder / "base")
    options: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": task}
    if task == "SEQ_CLS":
        options["modules_to_save"] = ["score"]
    labels = {"num_labels": 1} if task == "SEQ_CLS" else {}
    model = get_peft_model(AUTO[task].from_pretrained(folder / "base", **labels), LoraConfig(**options | lora))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn(parameter.shape) * 0.15  # float32, as trainable parameters are
    model.save_pretrained(folder / "adapter")
    return Pair(folder / "base", folder / "adapter", task, dtype)


def merge(pair: Pair, out: Path, **config: Any) -> Result:
    inputs = {
        "base": Artifact(str(pair.base), pair.base, "sha256:0", "model"),
        "adapter": Artifact(str(pair.adapter), pair.adapter, "sha256:1", "adapter"),
    }
    out.mkdir()
    return run(Job(Plan(SPEC, MergeConfig(**config), 0, inputs, DirectoryStore(out), "", ""), out, out))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [path for path in folder.glob("*.safetensors") if path.name.startswith("model")]
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance of neighbours of a type at the size of `values`, in float64."""
    exponent = torch.frexp(values.double().abs())[1].double() - 1
    return torch.exp2(exponent.clamp(min=SMALLEST_EXPONENT[dtype]) - FRACTION_BITS[dtype])


def unmerged(pair: Pair) -> Any:
    labels = {"num_labels": 1} if pair.task == "SEQ_CLS" else {}
    return AUTO_PEFT[pair.task].from_pretrained(pair.adapter, dtype=torch.float32, **labels).eval()


def load(out: Path, task: str, **options: Any) -> Any:
    model, info = AUTO[task].from_pretrained(out, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


def scale_for(module: str, scales: dict[str, float]) -> float:
    return next(scale for end, scale in scales.items() if module.endswith(end))


def deltas(pair: Pair, scales: dict[str, float]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """In float64, by module: the update, and the sum of its terms' sizes, which bounds its error in float32."""
    factors = {name: tensor.double() for name, tensor in load_file(pair.adapter / "adapter_model.safetensors").items()}
    found = {}
    for name, a in factors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b, scale = factors[f"{module}.lora_B.weight"], scale_for(module, scales)
            found[module.removeprefix("base_model.model.")] = (scale * b @ a, scale * b.abs() @ a.abs())
    return found


def check_numbers(pair: Pair, out: Path, scales: dict[str, float]) -> None:
    """Every tensor is a byte-identical copy or the rounded float64 sum, PEFT's own but for the last bit of a few."""
    before, after = weights(pair.base), weights(out)
    labels = {"num_labels": 1} if pair.task == "SEQ_CLS" else {}
    peft = AUTO_PEFT[pair.task].from_pretrained(pair.adapter, dtype="auto", **labels).merge_and_unload().state_dict()
    updates = deltas(pair, scales)
    assert {f"{module}.weight" for module in updates} <= after.keys()
    unequal = total = 0
    for name, tensor in after.items():
        if name == "score.weight":
            continue
        assert tensor.dtype == before[name].dtype == pair.dtype
        if name.removesuffix(".weight") not in updates:
            assert raw(tensor) == raw(before[name])
            continue
        update, terms = updates[name.removesuffix(".weight")]
        exact = before[name].double() + update
        in_float32 = 2.0**-24 * (10 * terms + exact.abs())
        assert ((tensor.double() - exact).abs() <= ulp(exact, pair.dtype) / 2 * (1 + 1e-9) + in_float32).all()
        distance = (tensor.double() - peft[name].double()).abs()
        assert (distance <= ulp(exact, pair.dtype) + 2 * in_float32).all()
        unequal, total = unequal + int((distance > 0).sum()), total + distance.numel()
    assert unequal <= total * (0.05 if pair.dtype == torch.float32 else 0.002)


@pytest.mark.parametrize("dtype", FRACTION_BITS, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merge(family: str, tied: bool, task: str, dtype: torch.dtype, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, family, task, tied, dtype)
    out = tmp_path / "merged"
    result = merge(pair, out)
    assert result.kind == ("reward_model" if task == "SEQ_CLS" else "model")
    check_numbers(pair, out, {"": 1.5})
    assert ("lm_head.weight" in weights(out)) == (task == "CAUSAL_LM" and not tied)
    model = load(out, task, dtype="auto")
    assert model.dtype == dtype
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.chat_template, tokenizer.pad_token_id, len(tokenizer)) == (TEMPLATE, 1, VOCABULARY)
    if dtype == torch.float32:
        check_logits(pair, model)


def check_logits(pair: Pair, merged: Any) -> None:
    adapted = unmerged(pair)
    expected = logits(adapted)
    assert (logits(merged) - expected).abs().max() <= 1e-4
    with adapted.disable_adapter():
        assert (logits(adapted) - expected).abs().max() > 0.1


def test_reward_model_folder(tmp_path: Path) -> None:
    """The head is the trained one bit by bit, in its own type; the configuration is one of a reward model."""
    pair = make_pair(tmp_path, "qwen2", "SEQ_CLS", dtype=torch.float16)
    (pair.adapter / "parity.safetensors").write_bytes(b"pairs")
    (pair.base / "notes.bin").write_text("not ours to copy")
    out = tmp_path / "merged"
    result = merge(pair, out)
    trained = load_file(pair.adapter / "adapter_model.safetensors")["base_model.model.score.weight"]
    head = weights(out)["score.weight"]
    assert head.dtype == torch.float32
    assert raw(head) == raw(trained)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (pair.base, out))
    assert after == before | {
        "architectures": ["Qwen2ForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    assert after["pad_token_id"] == 1
    names = {"config.json", "model.safetensors", "parity.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in out.iterdir()} == names | {"chat_template.jinja"}
    assert result.metrics["tensors_merged"] == 14
    assert result.metrics["tensors_replaced"] == 1
    assert result.metrics["tensors_copied"] == len(weights(out)) - 15
    assert result.metrics["parameters"] == sum(tensor.numel() for tensor in weights(out).values())
    assert result.metrics["bytes"] == sum(tensor.nbytes for tensor in weights(out).values())


def test_reward_model_of_a_base_that_does_not_say_its_type(tmp_path: Path) -> None:
    """transformers then looks at the first tensor by name, and BLOOM's score comes before its transformer."""
    pair = make_pair(tmp_path, "bloom", "SEQ_CLS", dtype=torch.float16)
    config = json.loads((pair.base / "config.json").read_text())
    del config["dtype"]
    (pair.base / "config.json").write_text(json.dumps(config))
    merge(pair, tmp_path / "merged")
    assert load(tmp_path / "merged", "SEQ_CLS", dtype="auto").dtype == torch.float16


def test_language_model_folder(tmp_path: Path) -> None:
    """What is not weights is the base's, byte by byte, and nothing of the adapter's is there."""
    pair = make_pair(tmp_path)
    (pair.base / "additional_chat_templates").mkdir()
    (pair.base / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    out = tmp_path / "merged"
    merge(pair, out)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {str(path.relative_to(pair.base)) for path in pair.base.rglob("*") if path.is_file()}
    assert "generation_config.json" in files
    for name in files - {"model.safetensors"}:
        assert (out / name).read_bytes() == (pair.base / name).read_bytes()


def test_a_model_merged_into_a_plain_base_stops_where_it_was_taught_to(tmp_path: Path) -> None:
    """The base's own files name neither the template's end of turn nor a pad token that ends no turn."""
    pair = make_pair(tmp_path)
    (pair.base / "chat_template.jinja").unlink()
    generation = {"eos_token_id": 2, "pad_token_id": 2, "temperature": 0.6, "do_sample": True}
    (pair.base / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = AutoTokenizer.from_pretrained(pair.base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["w5"]})
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} w5 {% endfor %}"
    store_tokenizer(prepare_tokenizer(tokenizer), pair.adapter)
    merge(pair, tmp_path / "merged")
    model = load(tmp_path / "merged", "CAUSAL_LM")
    assert model.generation_config.eos_token_id == [2, 5]
    assert model.generation_config.pad_token_id == 1
    assert model.generation_config.temperature == 0.6
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == tokenizer.chat_template
    prompt = torch.tensor([[3, 4]])
    with torch.no_grad():  # w5 is the most likely token
        model.lm_head.weight[5] = 100 * model.model(prompt).last_hidden_state[0, -1]
    assert model.generate(prompt, max_new_tokens=8, do_sample=False)[0].tolist() == [3, 4, 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_rows_without_a_token_stay(family: str, tmp_path: Path) -> None:
    """Bases have more rows than tokens, for speed or for later; a merge that cut them off would change the shapes."""
    pair = make_pair(tmp_path, family)
    save_tokenizer(pair.base, VOCABULARY - 20)
    merge(pair, tmp_path / "merged")
    model = load(tmp_path / "merged", "CAUSAL_LM")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "merged")) == VOCABULARY - 20
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == VOCABULARY


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({"use_rslora": True}, {"": 3.0}),
        ({"rank_pattern": {"q_proj": 8}}, {"q_proj": 0.75, "": 1.5}),
        (
            {"alpha_pattern": {"layers.1.mlp.up_proj": 2, "q_proj": 16, "[a-q]_proj": 3}},
            # PEFT saves patterns sorted and takes the first that matches: [a-q]_proj hides q_proj
            {"1.mlp.up_proj": 0.5, ".o_proj": 0.75, "k_proj": 0.75, "q_proj": 0.75, "": 1.5},
        ),
        ({"rank_pattern": {"o_proj": 9}, "use_rslora": True}, {"o_proj": 2.0, "": 3.0}),
    ],
    ids=["rslora", "rank", "alpha", "rank-rslora"],
)
def test_scales(options: dict[str, Any], scales: dict[str, float], tmp_path: Path) -> None:
    pair = make_pair(tmp_path, **options)
    merge(pair, tmp_path / "merged")
    check_numbers(pair, tmp_path / "merged", scales)
    check_logits(pair, load(tmp_path / "merged", "CAUSAL_LM"))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_adapter_in_half_precision(stored: torch.dtype, tmp_path: Path) -> None:
    """Its factors are widened before they are multiplied."""
    pair = make_pair(tmp_path, dtype=torch.float16)
    path = pair.adapter / "adapter_model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in load_file(path).items()}, path)
    merge(pair, tmp_path / "merged")
    check_numbers(pair, tmp_path / "merged", {"": 1.5})


@pytest.mark.parametrize(
    "key",
    [
        "q_proj",
        "layers.1.self_attn.q_proj",
        "proj",
        "self_attn.*",
        "^model.*k_proj",
        ".*",
        "model.layers.[0-1].mlp",
        "1.self_attn.q_proj",
    ],
)
def test_patterns_match_as_in_peft(key: str) -> None:
    for module in (
        "model.layers.0.self_attn.q_proj",
        "model.layers.11.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "lm_head",
    ):
        ranks = {"v_proj": 2, key: 16}
        expected = ranks.get(get_pattern_key(list(ranks), module), 4)
        assert scale_of(module, {"r": 4, "lora_alpha": 4, "rank_pattern": ranks}) == (expected, 4 / expected)


def test_the_result_does_not_depend_on_workers_or_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide enough for several blocks and for a product that two BLAS threads round differently from one."""
    monkeypatch.setitem(FAMILIES, "llama", WIDE | {"hidden_size": 256, "intermediate_size": 1100})
    pair = make_pair(tmp_path, r=16)
    merge(pair, tmp_path / "1", workers=1)
    expected = (tmp_path / "1" / "model.safetensors").read_bytes()
    for name, value in (("OMP_NUM_THREADS", "2"), ("OPENBLAS_NUM_THREADS", "2"), ("GOTO_NUM_THREADS", "2")):
        monkeypatch.setenv(name, value)
    for workers in (1, 2, 3):
        out = tmp_path / f"threads{workers}"
        merge(pair, out, workers=workers)
        assert (out / "model.safetensors").read_bytes() == expected


def test_header_of_a_file_with_types_of_several_sizes(tmp_path: Path) -> None:
    """safetensors reads it; every tensor's data is aligned, in whatever order they were asked for."""
    path = tmp_path / "model.safetensors"
    made = create(
        path, {"by": "us"}, [Layout("half", "F16", (3,)), Layout("ö", "F32", (2, 2)), Layout("flag", "BOOL", ())]
    )
    assert [tensor.name for tensor in made] == ["half", "ö", "flag"]
    assert all(tensor.offset % DTYPE_SIZE[tensor.dtype] == 0 for tensor in made)
    found = load_file(path)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == {
        "half": (torch.float16, (3,)),
        "ö": (torch.float32, (2, 2)),
        "flag": (torch.bool, ()),
    }
    assert read_header(path) == ({"format": "pt", "by": "us"}, (made[1], made[0], made[2]))


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_shards_and_index_are_kept(task: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, task=task, shard="12KB")
    out = tmp_path / "merged"
    merge(pair, out)
    before, after = (json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (pair.base, out))
    assert len(set(before["weight_map"].values())) > 3
    expected = before["weight_map"]
    if task == "SEQ_CLS":
        last = max(name for tensor, name in expected.items() if tensor != "lm_head.weight")
        expected = {name: shard for name, shard in expected.items() if name != "lm_head.weight"} | {
            "score.weight": last
        }
    assert after["weight_map"] == expected
    assert {path.name for path in out.glob("model-*")} == set(expected.values())
    merged = weights(out)
    assert after["metadata"] == {
        "total_parameters": sum(tensor.numel() for tensor in merged.values()),
        "total_size": sum(tensor.nbytes for tensor in merged.values()),
    }
    check_numbers(pair, out, {"": 1.5})
    check_logits(pair, load(out, task))


def test_a_shard_that_held_only_the_dropped_head_is_left_out(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "llama", "SEQ_CLS", shard="12KB")
    index = json.loads((pair.base / "model.safetensors.index.json").read_text())
    head = index["weight_map"]["lm_head.weight"]
    assert [name for name, shard in index["weight_map"].items() if shard == head] == ["lm_head.weight"]
    merge(pair, tmp_path / "merged")
    assert not (tmp_path / "merged" / head).exists()
    check_logits(pair, load(tmp_path / "merged", "SEQ_CLS"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("family", "modules"),
    [("llama", ["embed_tokens"]), ("qwen2", ["lm_head"]), ("bloom", ["word_embeddings", "lm_head"])],
)
def test_trained_embeddings(family: str, modules: list[str], tied: bool, tmp_path: Path) -> None:
    """They replace the base's; where the base shares one tensor for input and output, the merged model has two."""
    pair = make_pair(tmp_path, family, tied=tied, modules_to_save=modules)
    merge(pair, tmp_path / "merged")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    trained = load_file(pair.adapter / "adapter_model.safetensors")
    for module in modules:
        name = next(name for name in trained if name.endswith(f"{module}.weight"))
        assert raw(after[name.removeprefix("base_model.model.")]) == raw(trained[name])
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    check_logits(pair, load(tmp_path / "merged", "CAUSAL_LM"))


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
@pytest.mark.parametrize("family", ["bloom", "qwen3"])
def test_checkpoint_without_the_base_model_prefix(family: str, task: str, tmp_path: Path) -> None:
    """The form of BLOOM's own checkpoints: names begin with h.0, the adapter's with transformer.h.0."""
    pair = make_pair(tmp_path, family, task, tied=True)
    path = pair.base / "model.safetensors"
    save_file({name.partition(".")[2]: tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    out = tmp_path / "merged"
    merge(pair, out)
    assert weights(out).keys() - {"score.weight"} == weights(pair.base).keys()
    check_logits(pair, load(out, task))


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [(torch.bfloat16, torch.float16), (torch.float16, torch.float32), (torch.float32, torch.float16)],
    ids=["bf16-fp16", "fp16-fp32", "fp32-fp16"],
)
def test_conversion(stored: torch.dtype, wanted: torch.dtype, tmp_path: Path) -> None:
    """Every tensor is converted, sums are rounded only once, and the configuration says the new type."""
    pair = make_pair(tmp_path, "qwen2", dtype=stored)
    out = tmp_path / "merged"
    merge(pair, out, dtype=str(wanted).removeprefix("torch."))
    before, after = weights(pair.base), weights(out)
    updates = deltas(pair, {"": 1.5})
    for name, tensor in after.items():
        assert tensor.dtype == wanted
        if name.removesuffix(".weight") not in updates:
            assert raw(tensor) == raw(before[name].to(wanted))
            continue
        update, terms = updates[name.removesuffix(".weight")]
        exact = before[name].double() + update
        in_float32 = 2.0**-24 * (10 * terms + exact.abs())
        assert ((tensor.double() - exact).abs() <= ulp(exact, wanted) / 2 * (1 + 1e-9) + in_float32).all()
    assert load(out, "CAUSAL_LM", dtype="auto").dtype == wanted
