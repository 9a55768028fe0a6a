"""Models and tokenizers: loading under the device policy, LoRA, saving."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from components.common.attention import keep_attention_fused
from components.common.device import DevicePolicy
from components.common.errors import InputError, UserError
from components.common.quantised import in_4bit, keep_one_form
from components.common.tokenizer import save_generation_config, tokenizer_identity

if TYPE_CHECKING:
    from components.common.training import LoraSettings

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


def lora_targets(model: nn.Module) -> list[str]:
    """Names of all linear layers but the heads, as PEFT wants them: last parts, sorted, without doubles."""
    return sorted({name.rpartition(".")[2] for name, layer in model.named_modules() if _is_target(name, layer)})


def _is_target(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in HEADS


def lora_config(model: Any, settings: LoraSettings, task_type: str) -> Any:
    """PEFT's configuration for a model.

    Args:
        model: The base.
        settings: Rank, scale and targets.
        task_type: `CAUSAL_LM` or `SEQ_CLS`; the latter also trains the score head.

    Raises:
        UserError: A target matches no linear layer.
    """
    from peft import LoraConfig

    known = lora_targets(model)
    if not known:
        raise UserError(
            f"a model of type {model.config.model_type} has no linear layers that LoRA could adapt",
            hint="take a llama-like model, or train all parameters (lora: null)",
        )
    targets = known if settings.target_modules == "all-linear" else sorted(settings.target_modules)
    unmatched = [name for name in targets if name not in known]
    if unmatched:
        raise UserError(
            f"lora.target_modules: {', '.join(unmatched)} matches no linear layer", hint=f"there are {', '.join(known)}"
        )
    return LoraConfig(
        task_type=task_type,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        target_modules=targets,
        modules_to_save=["score"] if task_type == "SEQ_CLS" else None,
    )


def float32_trainables(model: nn.Module) -> list[nn.Parameter]:
    """Casts trainable parameters to float32, which a gradient scaler needs, and returns them."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        if parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return trainable


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


def score_head(model: Any) -> torch.Tensor:
    """Weight of a PEFT reward model's trained head, shape (1, hidden)."""
    weight: torch.Tensor = model.get_base_model().score.modules_to_save["default"].weight
    return weight


def save_tokenizer(tokenizer: Any, folder: Path) -> dict[str, str]:
    """Saves the tokenizer with its chat template, and with it where an answer ends.

    Returns:
        What the manifest records of it.
    """
    tokenizer.save_pretrained(folder)
    save_generation_config(tokenizer, folder)
    return tokenizer_identity(tokenizer)


def parameter_count(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, of the trainable ones alone if wished."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
