"""Bringing a base model into the store: from a folder, the hub, a GGUF file, or made from scratch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from components.common.errors import InputError, UserError
from components.common.inputs import find_input, split_uri
from components.common.logs import say
from components.common.manifest import hash_file
from components.common.stage import Job, Result
from components.common.store import fetch_uri, local_path, open_store
from components.common.tokenizer import prepare_tokenizer, stop_token_ids, tokenizer_identity
from components.prepare.config import ModelConfig

SCRATCH = "scratch"
PACKAGE = "package:"
HUB = "hub:"


def source_digest(source: str) -> str:
    """Hash of a base model's content, by which its artifact is known.

    Raises:
        UserError: A package is not installed.
        InputError: There is no such folder or file.
    """
    if source == SCRATCH:
        return ""  # its settings and the sources it is trained on say all
    file = gguf_file(source)
    if file is not None:
        return f"sha256:{hash_file(file)}"
    if is_folder(source):
        return find_input("model", source, ("model",)).digest
    return f"{HUB}{_revision(source)}"


def is_folder(source: str) -> bool:
    """Whether a source is an artifact or something local, not a name on the hub."""
    return bool(split_uri(source)[1]) or "://" in source or local_path(source).exists()


def gguf_file(source: str) -> Path | None:
    """The GGUF file that a source names, inside an installed package or by path; None if it names none."""
    if source.startswith(PACKAGE):
        package, _, name = source.removeprefix(PACKAGE).partition("/")
        # Importing it may need more than is installed; its place is enough.
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise UserError("is not installed", where=source, hint=f"pip install --no-deps {package.replace('_', '-')}")
        file = Path(found.submodule_search_locations[0]) / name
    elif source.endswith(".gguf"):
        root, prefix, below = split_uri(source)
        file = open_store(root).fetch(prefix) / below if prefix else fetch_uri(source)
    else:
        return None
    if not file.is_file():
        raise InputError("no such file", where=source, hint="give the path of a .gguf file")
    return file


def run(job: Job[ModelConfig]) -> Result:
    """Writes the base model's folder: weights as safetensors, tokenizer with a chat template and a pad token."""
    source = job.config.source
    if source == SCRATCH:
        from components.prepare.scratch import make

        return make(job)
    file = gguf_file(source)
    if file is not None:
        model, tokenizer = _load_gguf(file, job.config)
    elif is_folder(source):
        model, tokenizer = _load(find_input("model", source, ("model",)).folder, job.config)
    else:
        model, tokenizer = _load(_download(source, job.config.digest.removeprefix(HUB)), job.config)
    return _save(job, model, tokenizer)


def _load(folder: Path, config: ModelConfig, gguf_file: str | None = None, **kwargs: Any) -> tuple[Any, Any]:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from components.common.models import refuse_missing

    dtype = "auto" if config.dtype == "keep" else getattr(torch, config.dtype)
    try:
        # Not told, transformers would ask on the terminal whether it may run the code that came with a model.
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file, trust_remote_code=False)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, gguf_file=gguf_file, trust_remote_code=False, **kwargs
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                "needs Python code that comes with it, which is never run",
                where=config.source,
                hint="take a model of a family that transformers has, such as llama, qwen or bloom",
            ) from error
        raise InputError(
            f"cannot be loaded: {error}", where=config.source, hint="fetch it again, as safetensors with its tokenizer"
        ) from error
    refuse_missing(info, config.source)
    return model, tokenizer


def _load_gguf(file: Path, config: ModelConfig) -> tuple[Any, Any]:
    """Loads a GGUF file's weights as plain ones."""
    from transformers import GgufConfig

    plain = GgufConfig(gguf_file=file.name, dequantize=True)
    model, tokenizer = _load(file.parent, config, file.name, quantization_config=plain)
    model.hf_quantizer = None  # it would refuse to save what it read, although nothing is quantised any more
    return model, tokenizer


def _save(job: Job[ModelConfig], model: Any, tokenizer: Any) -> Result:
    from components.common.models import refuse_not_finite

    tokenizer = prepare_tokenizer(tokenizer, job.config.chat_template)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows",
            where=job.config.source,
            hint="give the tokenizer that belongs to the model, or resize the embedding",
        )
    refuse_not_finite(model.named_parameters(), job.config.source, hint="set model.dtype=float32")
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # Whoever serves the model must stop where it was taught to.
    model.generation_config.eos_token_id = stop_token_ids(tokenizer)
    model.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    parameters = sum(weight.numel() for weight in model.parameters())
    say(job.name, f"{job.config.source}: {parameters / 1e6:.1f} M parameters in {model.dtype}")
    return Result("model", {"parameters": parameters}, tokenizer_identity(tokenizer))


def _revision(name: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return str(HfApi().model_info(name).sha)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(
            f"neither a local folder nor a model that the hub gives us: {type(error).__name__}",
            where=name,
            hint="give a folder, an artifact URI or a hub name; set HF_TOKEN for a gated model",
        ) from error


def _download(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
