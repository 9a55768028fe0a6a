"""Saving models, adapters and tokenizers as plain `from_pretrained` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.common.models import refuse_not_finite
from components.common.tokenizer import save_generation_config, tokenizer_identity


def save_adapter(
    model: Any,
    folder: Path,
    base: str,
    *,
    adapter: str = "default",
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Saves an adapter's weights and configuration, the same bytes for the same adapter.

    Args:
        model: A PEFT model.
        folder: Where to.
        base: Name of the base to be written into the configuration; PEFT would write a path of this machine.
        adapter: Which of the model's adapters.
        weights: Its weights by the model's names for them, if the model is split among processes.
    """
    named = model.named_parameters() if weights is None else weights.items()
    refuse_not_finite(named, "adapter", hint="training has diverged: lower the learning rate")
    model.peft_config[adapter].base_model_name_or_path = base
    model.save_pretrained(folder, selected_adapters=[adapter], save_embedding_layers=False, state_dict=weights)
    if adapter != "default":  # PEFT puts any other adapter into a folder of its own
        for path in (folder / adapter).iterdir():
            path.rename(folder / path.name)
        (folder / adapter).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    # Sets come out in the order of this process's hash seed.
    fields = {name: sorted(value) if isinstance(value, list) else value for name, value in sorted(fields.items())}
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def save_model(model: Any, folder: Path, base: Path) -> None:
    """Saves a whole model as safetensors for plain `from_pretrained`.

    Args:
        model: The model.
        folder: Where to.
        base: The model it was made from: the weights keep that one's type, whatever the device computed with.
    """
    refuse_not_finite(model.named_parameters(), "model", hint="training has diverged: lower the learning rate")
    fields = json.loads((base / "config.json").read_text(encoding="utf-8"))
    name = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    model.config.use_cache = True  # training switches it off, and whoever serves the model would go without
    model.to(getattr(torch, name)).save_pretrained(folder)


def whole_model(model: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """A causal language model of the same shape on the CPU.

    Args:
        model: One whose parameters are all trained, and split among processes.
        weights: What `components.common.sharding.whole_trainables` gave of it.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(model.config)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    return plain


def save_tokenizer(tokenizer: Any, folder: Path) -> dict[str, str]:
    """Saves the tokenizer with its chat template, and with it where an answer ends.

    Returns:
        What the manifest records of it.
    """
    tokenizer.save_pretrained(folder)
    save_generation_config(tokenizer, folder)
    return tokenizer_identity(tokenizer)
