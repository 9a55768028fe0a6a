"""Which tensors the merged model has, in which file, and what each is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from components.common.errors import InputError, UserError
from components.merge.adapter import FLOATS, PREFIX, Adapter, Lora
from components.merge.base_model import INPUT_EMBEDDINGS, BaseModel, Shard
from components.merge.safetensors_file import Layout, Tensor

HEAD, SCORE = "lm_head.weight", "score.weight"
SAFETENSORS_DTYPE = {"float16": "F16", "float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Output:
    """A tensor of the merged model.

    Attributes:
        layout: Its name, type and shape.
        source: The tensor it is a copy or a conversion of, the base's or the adapter's.
        lora: The update added to it.
    """

    layout: Layout
    source: Tensor
    lora: Lora | None = None


@dataclass(frozen=True)
class Write:
    """Work for the engine: `target` becomes `source`, in the target's type, plus the update if there is one."""

    source: Tensor
    target: Tensor
    lora: Lora | None = None


@dataclass(frozen=True)
class ShardPlan:
    """A file of the merged model; it has the name of the base's shard."""

    shard: Shard
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Plan:
    """The merged model.

    Attributes:
        shards: Its files.
        untied: Whether the output embedding and the input embedding are two tensors because one of them was trained.
    """

    shards: tuple[ShardPlan, ...]
    untied: bool

    def counts(self) -> dict[str, int]:
        """Number of tensors that are merged with an update, replaced or added from the adapter, and copied."""
        kinds = Counter(_kind(output) for plan in self.shards for output in plan.outputs)
        return {f"tensors_{kind}": kinds[kind] for kind in ("merged", "replaced", "copied")}


def plan_merge(base: BaseModel, adapter: Adapter, dtype: str) -> Plan:
    """Finds the place of every adapter tensor in the base.

    Args:
        base: The base model.
        adapter: The adapter.
        dtype: `keep`, `float16` or `float32`.

    Raises:
        InputError: An adapter tensor matches nothing or has another shape than what it belongs to.
        UserError: A tensor is of a type that cannot be merged, or the adapter has no head for its task.
    """
    tensors = base.tensors
    loras = {_place(name, tensors, lora.a.name, adapter): lora for name, lora in adapter.loras.items()}
    replacements = dict(adapter.replacements)
    additions: list[Output] = []
    if adapter.task_type == "SEQ_CLS":
        additions.append(_score(replacements.pop(SCORE, None), base, adapter))
        tensors.pop(HEAD, None)
    untied = adapter.task_type == "CAUSAL_LM" and _trains_embeddings(adapter)
    if untied and HEAD not in tensors:
        additions.append(_own_head(base, replacements.pop(HEAD, None), dtype))
    places = {_place(name, tensors, tensor.name, adapter): tensor for name, tensor in replacements.items()}
    for name, lora in loras.items():
        _check_lora(tensors[name], lora)
    for name, tensor in places.items():
        _check_shape(tensor, tensors[name].shape, name)
    shards = []
    for shard in base.shards:
        kept = (tensor for tensor in shard.tensors if tensor.name in tensors)
        outputs = tuple(_output(tensor, loras.get(tensor.name), places.get(tensor.name), dtype) for tensor in kept)
        if outputs:  # a shard that held only the dropped lm_head is not written
            shards.append(ShardPlan(shard, outputs))
    shards[-1] = ShardPlan(shards[-1].shard, (*shards[-1].outputs, *additions))
    return Plan(tuple(shards), untied)


def _place(name: str, names: Iterable[str], shown: str, adapter: Adapter) -> str:
    """The base's name for a weight of the adapted model.

    A checkpoint saved from the headless model, as BLOOM's own are, lacks the first component (`transformer.`), and
    transformers adds it when it loads one.
    """
    prefix, _, rest = name.partition(".")
    if name in names:
        return name
    if rest in names and not any(other.startswith(f"{prefix}.") for other in names):
        return rest
    hint = "give the model that the adapter was trained on"
    if name == HEAD and adapter.task_type == "CAUSAL_LM":
        hint = "the base's output embedding is tied to its input embedding: put lm_head into modules_to_save instead"
    raise InputError(f"{shown} matches no tensor of the base", where=str(adapter.folder), hint=hint)


def _output(tensor: Tensor, lora: Lora | None, replacement: Tensor | None, dtype: str) -> Output:
    return Output(Layout(tensor.name, _dtype(tensor, dtype), tensor.shape), replacement or tensor, lora)


def _dtype(tensor: Tensor, dtype: str) -> str:
    return tensor.dtype if dtype == "keep" or tensor.dtype not in FLOATS else SAFETENSORS_DTYPE[dtype]


def _score(score: Tensor | None, base: BaseModel, adapter: Adapter) -> Output:
    """The score head, in the type it was trained in: rounding it would move every reward."""
    if score is None:
        raise UserError(
            f"has no {PREFIX}{SCORE}: its score head was not saved",
            where=str(adapter.folder),
            hint='train with modules_to_save=["score"]',
        )
    width = base.config.get("hidden_size") or base.config.get("n_embed") or score.shape[-1]
    _check_shape(score, (1, width), "a reward model's score head")
    return Output(Layout(SCORE, score.dtype, score.shape), score)


def _trains_embeddings(adapter: Adapter) -> bool:
    return any(name.endswith((HEAD, *INPUT_EMBEDDINGS)) for name in (*adapter.loras, *adapter.replacements))


def _own_head(base: BaseModel, trained: Tensor | None, dtype: str) -> Output:
    """An output embedding for a base that has one tensor for both: the trained one, else the base's as it was."""
    embedding = base.input_embedding()
    head = trained or embedding
    _check_shape(head, embedding.shape, HEAD)
    return Output(Layout(HEAD, _dtype(embedding, dtype), embedding.shape), head)


def _check_lora(tensor: Tensor, lora: Lora) -> None:
    if tensor.dtype not in FLOATS:
        raise UserError(f"{tensor.name} is of type {tensor.dtype}: LoRA can be merged only into {', '.join(FLOATS)}")
    shape = (lora.b.shape[0], lora.a.shape[1])
    if shape != tensor.shape:
        raise InputError(
            f"{lora.a.name} and lora_B make {list(shape)}, {tensor.name} is {list(tensor.shape)}",
            where=str(lora.a.path),
            hint="give the model that the adapter was trained on",
        )


def _check_shape(tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
    if tensor.shape != shape:
        raise InputError(
            f"{tensor.name} is {list(tensor.shape)}, {what} is {list(shape)}",
            where=str(tensor.path),
            hint="give the model that the adapter was trained on",
        )


def _kind(output: Output) -> str:
    if output.lora:
        return "merged"
    return "copied" if output.source.name == output.layout.name else "replaced"
