"""A base and an adapter of a few numbers, to be merged by the command, and what can be changed about them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Q = "model.layers.0.self_attn.q_proj"
A, B = f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight"
SCORE = "base_model.model.score.weight"
WEIGHTS = "base/model.safetensors"
BASE_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "float32",
    "hidden_size": 4,
    "model_type": "llama",
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
ADAPTER_CONFIG = {
    "bias": "none",
    "lora_alpha": 4,
    "peft_type": "LORA",
    "r": 2,
    "task_type": "CAUSAL_LM",
    "use_dora": False,
}
Change = Callable[[Path], object]


def make_little_pair(folder: Path) -> Path:
    """Fills a folder with a base of four tensors, an adapter on one of them, and a configuration."""
    (folder / "base").mkdir()
    (folder / "adapter").mkdir()
    (folder / "run.yaml").write_text("merge: {workers: 1}\n")
    (folder / "base" / "config.json").write_text(json.dumps(BASE_CONFIG))
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(ADAPTER_CONFIG))
    draw = np.random.default_rng(3)
    shapes = {
        "model.embed_tokens.weight": (8, 4),
        f"{Q}.weight": (4, 4),
        "model.norm.weight": (4,),
        "lm_head.weight": (8, 4),
    }
    base = {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_file(base, folder / "base" / "model.safetensors")
    factors = {A: draw.standard_normal((2, 4), np.float32), B: draw.standard_normal((4, 2), np.float32)}
    save_file(factors, folder / "adapter" / "adapter_model.safetensors")
    return folder


def arguments(pair: Path, base: str = "base", adapter: str = "adapter") -> list[str]:
    inputs = [f"--input=base={pair / base}", f"--input=adapter={pair / adapter}"]
    return [f"--config={pair / 'run.yaml'}", *inputs, f"--output={pair / 'store'}"]


def edit(path: str, **fields: Any) -> Change:
    """Sets fields of a JSON file."""

    def change(pair: Path) -> None:
        content = json.loads((pair / path).read_text())
        (pair / path).write_text(json.dumps(content | fields))

    return change


def tensors(path: str, **values: NDArray[Any] | None) -> Change:
    """Sets or removes tensors of a file; `__` stands for the dot in their names."""

    def change(pair: Path) -> None:
        content = load_file(pair / path)
        for name, value in values.items():
            content.pop(name.replace("__", "."), None)
            if value is not None:
                content[name.replace("__", ".")] = value
        save_file(content, pair / path)

    return change


def config(**fields: Any) -> Change:
    return edit("adapter/adapter_config.json", **fields)


def adapter(values: dict[str, NDArray[Any] | None]) -> Change:
    return tensors("adapter/adapter_model.safetensors", **values)


def base(values: dict[str, NDArray[Any] | None]) -> Change:
    return tensors("base/model.safetensors", **values)


def both(*changes: Change) -> Change:
    return lambda pair: [change(pair) for change in changes]


def cut(path: str, size: int) -> Change:
    return lambda pair: os.truncate(pair / path, size)


def write(path: str, content: bytes) -> Change:
    return lambda pair: (pair / path).write_bytes(content)


def remove(path: str) -> Change:
    return lambda pair: (pair / path).unlink()
