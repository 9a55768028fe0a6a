"""The merged model's folder beside its weights: configuration, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.errors import UserError
from components.merge.adapter import Adapter
from components.merge.base_model import CONFIG, BaseModel
from components.merge.json_file import read_json
from components.merge.plan import SAFETENSORS_DTYPE, Plan

# What from_pretrained and AutoTokenizer read, and nothing else: an adapter_config.json beside full weights would make
# transformers look for a base model, and a folder people keep models in holds all sorts of things.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATES = "additional_chat_templates"
GENERATION_CONFIG = "generation_config.json"
_ENDINGS = ("eos_token_id", "pad_token_id")
PARITY = "parity.safetensors"
"""Pairs with their scores, which the reward stage leaves beside its adapter: who loads the model can check it."""


def write_model_files(out: Path, base: BaseModel, adapter: Adapter, plan: Plan, dtype: str, tokenizer: Path) -> None:
    """Writes everything but the weights.

    Args:
        out: The merged model's folder.
        base: The base model, whose files are copied.
        adapter: The adapter.
        plan: The merged model.
        dtype: `keep`, `float16` or `float32`.
        tokenizer: Folder of the tokenizer.

    Raises:
        UserError: A reward model was asked for and the base is not a causal language model.
    """
    config = merged_config(base, adapter, plan, dtype)
    if config == base.config:
        shutil.copyfile(base.folder / CONFIG, out / CONFIG)
    else:
        (out / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, out / name)
    for template in sorted((tokenizer / TEMPLATES).glob("*.jinja")):
        (out / TEMPLATES).mkdir(exist_ok=True)
        shutil.copyfile(template, out / TEMPLATES / template.name)
    if adapter.task_type == "CAUSAL_LM":
        _write_generation_config(out, base, adapter)
    if (adapter.folder / PARITY).is_file():
        shutil.copyfile(adapter.folder / PARITY, out / PARITY)


def _write_generation_config(out: Path, base: BaseModel, adapter: Adapter) -> None:
    """The base's, with the tokens that end an answer and that pad as the adapter was trained with them.

    A plain base's file may name only its EOS token where the chat template ends a turn with another: whoever served the
    merged model would not stop where it was taught to.
    """
    ours, theirs = base.folder / GENERATION_CONFIG, adapter.folder / GENERATION_CONFIG
    fields = read_json(ours) if ours.is_file() else {}
    trained = read_json(theirs) if theirs.is_file() else {}
    merged = fields | {name: trained[name] for name in _ENDINGS if name in trained}
    if merged != fields:
        (out / GENERATION_CONFIG).write_text(json.dumps(merged, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    elif ours.is_file():
        shutil.copyfile(ours, out / GENERATION_CONFIG)


def merged_config(base: BaseModel, adapter: Adapter, plan: Plan, dtype: str) -> dict[str, Any]:
    """The merged model's config.json.

    Raises:
        UserError: A reward model was asked for and the base is not a causal language model.
    """
    config = dict(base.config)
    if dtype != "keep":
        config |= dict.fromkeys(_dtype_fields(config), dtype)
    if plan.untied:
        config["tie_word_embeddings"] = False
    if adapter.task_type == "SEQ_CLS":
        config["architectures"] = _classifier(base)
        config["id2label"], config["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
        if not any(config.get(name) for name in _dtype_fields(config)):
            # Without it dtype="auto" takes the type of the first tensor, which may be the head's float32.
            config["dtype"] = _main_dtype(base)
    return config


def _dtype_fields(config: Mapping[str, Any]) -> list[str]:
    """The fields that hold the type: transformers 5 writes `dtype`, 4 wrote `torch_dtype`, 5 reads both."""
    return [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]


def _main_dtype(base: BaseModel) -> str:
    names = {short: name for name, short in SAFETENSORS_DTYPE.items()}
    return next(names[tensor.dtype] for tensor in base.tensors.values() if tensor.dtype in names)


def _classifier(base: BaseModel) -> list[str]:
    architectures = base.config.get("architectures") or []
    if len(architectures) != 1 or not architectures[0].endswith("ForCausalLM"):
        raise UserError(
            f"architectures is {architectures}, a reward model is made of one …ForCausalLM",
            where=str(base.folder / CONFIG),
            hint="give a base saved by AutoModelForCausalLM",
        )
    return [architectures[0].replace("ForCausalLM", "ForSequenceClassification")]
