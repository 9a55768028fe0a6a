"""The base model's folder: its configuration and its shards, known by their headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.errors import InputError, UserError
from components.merge.json_file import read_json
from components.merge.safetensors_file import Tensor, read_header

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# What the input embedding is called in the model families we test (llama, qwen2, qwen3; bloom).
INPUT_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class Shard:
    """One weights file: its metadata and its tensors in the order of their data."""

    path: Path
    metadata: Mapping[str, str]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class BaseModel:
    """A model folder.

    Attributes:
        folder: Where it lies.
        config: Its config.json.
        shards: Its weights files in the order of their names.
        indexed: Whether an index file names the shards.
    """

    folder: Path
    config: Mapping[str, Any]
    shards: tuple[Shard, ...]
    indexed: bool

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors by name."""
        return {tensor.name: tensor for shard in self.shards for tensor in shard.tensors}

    def input_embedding(self) -> Tensor:
        """The token embedding.

        Raises:
            UserError: The model has none that we know the name of.
        """
        for tensor in self.tensors.values():
            if tensor.name.endswith(INPUT_EMBEDDINGS):
                return tensor
        raise UserError("has no input embedding that is known", where=str(self.folder), hint="untie its embeddings")


def read_base(folder: Path) -> BaseModel:
    """Reads a model's configuration and the headers of its weights.

    Raises:
        UserError: The model is quantised.
        InputError: A file is missing or damaged, or the weights are not safetensors files.
    """
    config = read_json(folder / CONFIG)
    if config.get("quantization_config"):
        raise UserError(
            "quantization_config is set: a quantised base cannot be merged into",
            where=str(folder / CONFIG),
            hint="give the unquantised model that the adapter was trained on",
        )
    index = folder / INDEX
    if index.is_file():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise InputError("has no weight_map", where=str(index), hint="fetch or make the file again")
        shards = tuple(_read_shard(folder / name) for name in sorted(set(listed.values())))
        _compare(index, listed, shards)
        return BaseModel(folder, config, shards, indexed=True)
    if not (folder / WEIGHTS).is_file():
        raise InputError(
            f"has neither {WEIGHTS} nor {INDEX}", where=str(folder), hint="save the model as safetensors (not .bin)"
        )
    return BaseModel(folder, config, (_read_shard(folder / WEIGHTS),), indexed=False)


def index_json(shards: Mapping[str, tuple[Tensor, ...]]) -> str:
    """The index file's text.

    Args:
        shards: Tensors by name of their file.
    """
    tensors = [tensor for held in shards.values() for tensor in held]
    metadata = {
        "total_parameters": sum(tensor.count for tensor in tensors),
        "total_size": sum(tensor.size for tensor in tensors),
    }
    weight_map = {tensor.name: name for name, held in shards.items() for tensor in held}
    return json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"


def _read_shard(path: Path) -> Shard:
    if path.suffix != ".safetensors" or not path.is_file():
        raise InputError("is listed in the index but is no safetensors file here", where=str(path))
    return Shard(path, *read_header(path))


def _compare(index: Path, listed: Mapping[str, str], shards: tuple[Shard, ...]) -> None:
    held = {tensor.name: shard.path.name for shard in shards for tensor in shard.tensors}
    if held != listed:
        names = sorted(name for name in held.keys() | listed.keys() if held.get(name) != listed.get(name))
        raise InputError(
            f"does not agree with the shards about {names[0]}", where=str(index), hint="fetch the model again"
        )
