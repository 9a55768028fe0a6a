"""Tiny models of each family with random weights, for tests of arithmetic that need no learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from components.common.saving import save_adapter
from components.common.trainables import lora_targets

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


def save_reward_adapter(base: Path, folder: Path, pad_token_id: int, r: int = 4) -> Any:
    """Saves a random reward adapter with a score head, as the reward stage saves it, and returns its model."""
    from peft import LoraConfig, get_peft_model

    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.config.pad_token_id = pad_token_id
    targets = lora_targets(model)
    config = LoraConfig(task_type="SEQ_CLS", r=r, target_modules=targets, modules_to_save=["score"])
    model = get_peft_model(model, config)
    randomise_lora(model, "default", seed=1)
    with torch.no_grad():
        model.get_base_model().score.modules_to_save["default"].weight.normal_(generator=torch.manual_seed(2))
    save_adapter(model, folder, base="base")
    return model.eval()
