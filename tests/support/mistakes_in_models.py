"""Mistakes in a base model and its tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.mistake_kit import Kit, Mistake


def _model(kit: Kit, spoil: Callable[[Path], None]) -> int:
    """Gives prepare a spoilt copy of the model."""
    copy = kit.copy(kit.model)
    spoil(copy)
    return kit.base(copy)


def _change_json(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _grow_vocabulary(folder: Path) -> None:
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    _change_json(folder, "tokenizer.json", added_tokens=[*tokens, {**tokens[0], "id": size, "content": "<|new|>"}])


def _no_end(folder: Path) -> None:
    _change_json(folder, "tokenizer_config.json", eos_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def _nothing_pads(folder: Path) -> None:
    """Leaves two special tokens: one begins a turn, the other ends it."""
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    _change_json(folder, "tokenizer.json", added_tokens=[t for t in tokens if t["content"] != "<|pad|>"])
    _change_json(folder, "tokenizer_config.json", pad_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def _own_code(folder: Path) -> None:
    _change_json(folder, "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})


BASE_MODEL = (
    Mistake("no such model", 3, lambda kit: kit.base("owner/name")),
    Mistake("no such GGUF file", 3, lambda kit: kit.base(kit.folder / "my.gguf")),
    Mistake(
        "a folder that holds no model",
        3,
        lambda kit: kit.base(Path(kit.write("m/README.md", "")).parent),
    ),
    Mistake(
        "a model without its weights",
        3,
        lambda kit: _model(kit, lambda folder: (folder / "model.safetensors").unlink()),
    ),
    Mistake(
        "weights that were cut off",
        3,
        lambda kit: _model(kit, lambda folder: os.truncate(folder / "model.safetensors", 50_000)),
    ),
    Mistake("a tokenizer larger than the embedding", 3, lambda kit: _model(kit, _grow_vocabulary)),
    Mistake("a tokenizer without an EOS token", 2, lambda kit: _model(kit, _no_end)),
    Mistake("a tokenizer in which nothing can pad", 2, lambda kit: _model(kit, _nothing_pads)),
    Mistake(
        "a chat template that fails",
        2,
        lambda kit: kit.base(kit.model, "model.chat_template=\"{{ messages[5]['content']['x'] }}\""),
    ),
    Mistake("a model that needs code of its own", 3, lambda kit: _model(kit, _own_code)),
    Mistake(
        "a model from scratch without documents",
        2,
        lambda kit: kit.set(
            "data.builder=null",
            *(f"data.{task}.sources={kit.shared / 'sources' / task}" for task in ("pretrain", "sft", "reward", "rl")),
        ),
    ),
)
