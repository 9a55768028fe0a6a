"""Tiny models of each family with random weights, for tests of arithmetic that need no learning."""

from __future__ import annotations

from typing import Any

import torch
import transformers

FAMILIES = ("llama", "qwen2", "qwen3", "bloom")


def tiny_config(family: str, tokenizer: Any, **changes: Any) -> Any:
    """Configuration of a two-layer model with the tokenizer's special ids."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    if family == "bloom":
        shape = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
        return transformers.BloomConfig(vocab_size=len(tokenizer), **{**shape, **ids, **changes})
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    if family == "qwen3":
        shape["head_dim"] = 8
    kind = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}[family]
    return getattr(transformers, kind)(vocab_size=len(tokenizer), **{**shape, **ids, **changes})


def tiny_model(family: str, tokenizer: Any, seed: int = 0, **changes: Any) -> Any:
    """A causal language model with random weights, wide enough that its answers differ."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(family, tokenizer, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # the default initialisation makes nearly uniform predictions
    return model.eval()


def randomise_lora(model: Any, adapter: str, seed: int = 0, scale: float = 0.05) -> None:
    """Gives an adapter's B matrices random values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f"lora_B.{adapter}." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
