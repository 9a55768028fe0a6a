"""Frozen weights in 4 bits, on which adapters are trained: QLoRA (arXiv:2305.14314), by bitsandbytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from components.common.device import DevicePolicy
from components.common.errors import UserError


def in_4bit(policy: DevicePolicy, wanted: bool, whole: Iterable[str]) -> dict[str, Any]:
    """Arguments for `from_pretrained` to keep linear layers in NF4, with quantised constants.

    Args:
        policy: Device, and the type that is computed in.
        wanted: Whether to; there are no arguments if not.
        whole: Names of layers that are left as they are.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if not wanted:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("bitsandbytes is not installed", where="load_in_4bit", hint="pip install 'rlhf-stack[qlora]'")
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=policy.compute_dtype,
        llm_int8_skip_modules=list(whole),
    )
    return {"quantization_config": quantization, "device_map": {"": str(policy.device)}}


def keep_one_form(model: Any) -> None:
    """Keeps weights in 4 bits as they are.

    On a CPU with bfloat16 instructions, bitsandbytes 0.50 turns them into another form when they are first evaluated.
    What is computed with that form afterwards has no gradient, so a layer that was evaluated would train no other.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
