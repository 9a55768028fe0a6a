"""The merged model's folder: its files, their names and shards, the configuration, and what is replaced whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from components.common.saving import save_tokenizer as store_tokenizer
from components.common.tokenizer import prepare_tokenizer
from components.merge.safetensors_file import DTYPE_SIZE, Layout, create, read_header
from tests.support.merging import (
    FAMILIES,
    VOCABULARY,
    check_logits,
    check_numbers,
    load,
    make_pair,
    merge,
    raw,
    save_tokenizer,
    weights,
)


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
