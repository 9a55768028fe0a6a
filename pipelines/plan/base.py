"""Finding a base model's config.json without its weights: in a folder, a store, on the hub, in a GGUF file's header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.errors import InputError, UserError
from components.common.inputs import split_uri
from components.common.store import local_path, open_store
from components.prepare.base import SCRATCH, gguf_file, is_folder
from components.prepare.config import ModelConfig, ScratchModel
from pipelines.plan.architecture import Architecture, read_architecture

WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Base:
    """A base model.

    Attributes:
        architecture: Its shape.
        dtype: Type in which its artifact is stored, and every model that is merged from it.
    """

    architecture: Architecture
    dtype: str

    @property
    def stored(self) -> int:
        """Bytes of its weights in the store."""
        return self.architecture.parameters * WIDTHS[self.dtype]


def read_base(config: ModelConfig) -> Base:
    """Reads the shape of the configuration's base model.

    Raises:
        InputError: There is none, or its config.json is missing or lacks what is needed.
    """
    fields = base_fields(config)
    dtype = (
        str(fields.get("dtype") or fields.get("torch_dtype") or "float32") if config.dtype == "keep" else config.dtype
    )
    if dtype not in WIDTHS:
        raise InputError(f"{dtype} is no type that weights are stored in", where=config.source)
    return Base(read_architecture(fields, config.source), dtype)


def base_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields of the base model's config.json, under transformers' names."""
    if config.source == SCRATCH:
        return _scratch_fields(config.scratch)
    file = gguf_file(config.source)
    if file is not None:
        return _gguf_fields(file)
    if not is_folder(config.source):
        return _read_json(_from_hub(config.source))
    root, prefix, _ = split_uri(config.source)
    if not prefix:
        return _read_json(local_path(config.source) / "config.json")
    store, path = open_store(root), f"{prefix}/config.json"
    if not store.exists(path):
        raise InputError("has no config.json", where=config.source, hint="give the URI of a model")
    fields: dict[str, Any] = json.loads(store.read(path))
    return fields


def _scratch_fields(scratch: ScratchModel) -> dict[str, Any]:
    return {
        "model_type": scratch.model_type,
        "hidden_size": scratch.hidden_size,
        "intermediate_size": scratch.intermediate_size or 3 * scratch.hidden_size,
        "num_hidden_layers": scratch.num_hidden_layers,
        "num_attention_heads": scratch.num_attention_heads,
        "vocab_size": scratch.vocab_size,
        "tie_word_embeddings": scratch.tie_word_embeddings,
        "dtype": "float32",
    }


def _gguf_fields(file: Path) -> dict[str, Any]:
    """A GGUF file's header, in the words of a config.json; prepare writes such weights as plain ones."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(
            "the package gguf is not installed", where=str(file), hint="pip install 'rlhf-stack[examples]'"
        ) from error
    reader = GGUFReader(str(file))
    family = str(reader.fields["general.architecture"].contents())

    def field(name: str) -> Any:
        found = reader.fields.get(f"{family}.{name}")
        return None if found is None else found.contents()

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    embedding = tensors["token_embd.weight"].shape  # width, then rows
    return {
        "model_type": family,
        "hidden_size": int(embedding[0]),
        "vocab_size": int(embedding[1]),
        "intermediate_size": field("feed_forward_length"),
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": field("attention.head_count"),
        "num_key_value_heads": field("attention.head_count_kv"),
        "head_dim": field("attention.key_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "dtype": "float32",
    }


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(
            "reading it from the hub needs huggingface_hub", where=name, hint="pip install 'rlhf-stack[train]'"
        ) from error
    try:
        return Path(hf_hub_download(name, "config.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"neither a local folder nor a model that the hub gives us: {type(error).__name__}",
            where=name,
            hint="give a folder, an artifact URI or a hub name; set HF_TOKEN for a gated model",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path), hint="give a model's folder") from error
    return fields
