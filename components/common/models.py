"""Models: loading them under the device policy, and refusing what is no whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from components.common.attention import keep_attention_fused
from components.common.device import DevicePolicy
from components.common.errors import InputError, UserError
from components.common.quantised import in_4bit, keep_one_form

HEAD = "score.weight"
PARITY = "parity.safetensors"
HEADS = ("lm_head", "score")  # never LoRA targets: their losses read `.weight` directly, and PEFT would replace it


def load_causal_lm(
    folder: Path, policy: DevicePolicy, *, full_precision: bool = False, load_in_4bit: bool = False
) -> Any:
    """Loads a causal language model in the policy's type on its device.

    Args:
        folder: Where it is.
        policy: Device and type.
        full_precision: Load in float32 all the same, because all parameters will be trained.
        load_in_4bit: Keep linear layers but the head in NF4, to train adapters on them.

    Raises:
        InputError: The weights are missing or do not fit the architecture.
    """
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if full_precision else policy.compute_dtype
    return _load(AutoModelForCausalLM, folder, policy, dtype, **in_4bit(policy, load_in_4bit, HEADS))


def new_causal_lm(folder: Path, policy: DevicePolicy) -> Any:
    """Makes a causal language model with random weights.

    Args:
        folder: Holds the config.json that says its shape.
        policy: Device; the weights are float32, because all of them will be trained.

    Raises:
        InputError: There is no usable config.json.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    keep_attention_fused(policy)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config).to(policy.device)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"no model can be made from config.json: {error}", where=str(folder)) from error


def load_reward_base(folder: Path, policy: DevicePolicy, pad_token_id: int, *, load_in_4bit: bool = False) -> Any:
    """Loads a causal language model's backbone under a score head that is all zeros.

    Zero makes "before training" mean what it should: every pair is a tie.

    Args:
        folder: The causal language model.
        policy: Device and type.
        pad_token_id: By which the model finds the last token of a padded row.
        load_in_4bit: As for `load_causal_lm`.
    """
    from transformers import AutoModelForSequenceClassification

    model = _load(
        AutoModelForSequenceClassification,
        folder,
        policy,
        policy.compute_dtype,
        expected=("score.weight",),
        num_labels=1,
        **in_4bit(policy, load_in_4bit, HEADS),
    )
    nn.init.zeros_(model.score.weight)
    model.config.pad_token_id = pad_token_id
    return model


def load_sequence_classifier(folder: Path, policy: DevicePolicy, *, load_in_4bit: bool = False) -> Any:
    """Loads a sequence classification model in the policy's type on its device."""
    from transformers import AutoModelForSequenceClassification

    extra = in_4bit(policy, load_in_4bit, HEADS)
    return _load(AutoModelForSequenceClassification, folder, policy, policy.compute_dtype, **extra)


def load_reward_model(folder: Path, policy: DevicePolicy, *, load_in_4bit: bool = False) -> Any:
    """Loads a merged reward model; its score head stays float32, as it was trained."""
    model = load_sequence_classifier(folder, policy, load_in_4bit=load_in_4bit)
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if path.name != PARITY and HEAD in file.keys():  # noqa: SIM118, it is no dict
                model.score.weight.data = file.get_tensor(HEAD).float().to(policy.device)
    return model


def _load(
    kind: Any, folder: Path, policy: DevicePolicy, dtype: torch.dtype, expected: Iterable[str] = (), **kwargs: Any
) -> Any:
    from transformers import logging

    keep_attention_fused(policy)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports the missing score head as a fault; the check below is stricter
    try:
        # Attention is left to transformers: sdpa where the family has it, eager where not (bloom).
        model, info = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False, **kwargs
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(f"cannot be loaded: {error}", where=str(folder)) from error
    finally:
        logging.set_verbosity(level)
    refuse_missing(info, str(folder), expected)
    if dtype == torch.float16:  # a bfloat16 checkpoint may hold what float16 cannot
        refuse_not_finite(model.named_parameters(), str(folder), hint="set model.dtype=float32")
    if "quantization_config" in kwargs:
        keep_one_form(model)
    return model if "device_map" in kwargs else model.to(policy.device)


def refuse_missing(info: Mapping[str, Any], where: str, expected: Iterable[str] = ()) -> None:
    """Looks at what `from_pretrained` says of a checkpoint; it fills in what is missing with random numbers.

    Raises:
        InputError: Weights are missing or of another shape.
    """
    faults = {*info.get("missing_keys", ()), *(key for key, *_ in info.get("mismatched_keys", ()))} - set(expected)
    if faults:
        raise InputError(f"weights are missing or of another shape: {', '.join(sorted(faults)[:3])}", where=where)


def refuse_not_finite(weights: Iterable[tuple[str, torch.Tensor]], where: str, hint: str) -> None:
    """Looks for weights that are not numbers, among weights by their names.

    Raises:
        UserError: Naming the first.
    """
    for name, weight in weights:
        if not torch.isfinite(weight).all():
            raise UserError(f"{name} holds values that are not finite", where=where, hint=hint)
