"""A model whose parameters are split among all processes (FSDP2): for what does not fit one GPU.

Each block of layers is gathered when it computes, and let go of afterwards. Embedding, last norm and head are gathered
together, for as long as a pass takes, because losses and measurements read the head beside the model's own forward.
Gathering is done by all processes at once: none may make a forward pass that the others do not make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from components.common import distributed
from components.common.attention import keep_attention_fused
from components.common.device import DevicePolicy
from components.common.errors import UserError


def build_sharded(stage: str, policy: DevicePolicy, build: Callable[[DevicePolicy], Any]) -> Any:
    """Builds a model on the CPU and keeps this process's part of it on its device.

    The processes of a machine do so one after another: its memory need hold one whole model only.

    Args:
        stage: Name of the stage, for messages.
        policy: Device and type.
        build: Makes the whole model, with its adapter, for a policy; the same in all processes.

    Raises:
        UserError: There is one process only, or the model's blocks are not known.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if distributed.world_size() == 1:
        raise UserError(
            "a model is split among processes, and there is only one",
            where=f"{stage}.sharding=fsdp2",
            hint=f"set {stage}.sharding=none, or start more processes (--nproc, launcher.nproc_per_node)",
        )
    keep_attention_fused(policy)
    mesh = init_device_mesh(policy.device.type, (distributed.world_size(),))
    with distributed.in_turn():
        model = build(replace(policy, device=torch.device("cpu")))
        _split(stage, model, mesh, policy)
    _settle(model, policy)
    return model


def is_sharded(model: Any) -> bool:
    """Whether a model's parameters are split among the processes."""
    if distributed.world_size() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; all processes must ask for it."""
    gather = getattr(tensor.detach(), "full_tensor", None)
    return tensor if gather is None else gather()


def part_like(tensor: Tensor, part: Tensor) -> Tensor:
    """This process's part of a whole tensor that all processes have, split as another one is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(part, DTensor):
        return tensor
    return distribute_tensor(tensor, part.device_mesh, part.placements, src_data_rank=None)


def fill(parameter: Tensor, value: Tensor) -> None:
    """Copies a whole tensor's values into a parameter, or its part of them if the parameter is split."""
    with torch.no_grad():
        local(parameter).copy_(local(part_like(value, parameter)))


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    part = getattr(tensor.detach(), "to_local", None)
    return tensor.detach() if part is None else part()


def whole_trainables(model: Any) -> dict[str, Tensor]:
    """The trained parameters of a split model by all their names, whole, on the main process's CPU.

    All processes must ask for them; those that are not the main one get nothing. Two names of one parameter, as tied
    embeddings have, share one tensor.
    """
    model.reshard()
    gathered: dict[int, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        if id(parameter) not in gathered:
            gathered[id(parameter)] = main_copy(parameter)
        found[name] = gathered[id(parameter)]
    return found if distributed.is_main() else {}


def main_copy(tensor: Tensor) -> Tensor:
    """A tensor with all its parts on the main process's CPU, nothing elsewhere; all processes must ask for it."""
    full = whole(tensor).detach()
    return full.cpu() if distributed.is_main() else full.new_empty(0)


@contextmanager
def in_step(model: Any, transformer: nn.Module) -> Iterator[None]:
    """Lets processes make different numbers of forward passes through a split model; nothing else may be exchanged.

    Before each pass a process says that it makes one. Who has none left makes an empty one as long as another has.

    Args:
        model: Any model; one that is not split is left alone.
        transformer: What passes go through: the model below its head.
    """
    if not is_sharded(model):
        yield
        return
    device = local(next(model.parameters())).device

    def anyone_works(mine: float) -> bool:
        return distributed.sum_over_ranks(torch.tensor([mine], device=device)).item() > 0

    def announce(*_: Any) -> None:
        anyone_works(1)

    hook = transformer.register_forward_pre_hook(announce)
    model.unshard()  # the head is read without the model's own forward
    try:
        yield
        hook.remove()
        while anyone_works(0):
            transformer(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
    finally:
        hook.remove()
        model.reshard()


def _split(stage: str, model: Any, mesh: Any, policy: DevicePolicy) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(base._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise UserError(
            f"the layers of a model of type {base.config.model_type} are not known",
            where=f"{stage}.sharding=fsdp2",
            hint=f"set {stage}.sharding=none, or take another model",
        )
    # Where all is trained, parameters are float32 and gathered in half precision: autocast would keep a copy in half
    # precision of every gathered one. Adapters are small, and what they stand on is in half precision already.
    halves = policy.compute_dtype != torch.float32 and all(p.requires_grad for p in model.parameters())
    precision = (
        MixedPrecisionPolicy(param_dtype=policy.compute_dtype, reduce_dtype=torch.float32)
        if halves
        else MixedPrecisionPolicy()
    )
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=precision)
    # Tells transformers' Trainer to leave placement and gradients to the model.
    base._is_distributed_loading_by_transformers = True


def _settle(model: Any, policy: DevicePolicy) -> None:
    """Makes a first forward pass, which decides what the outermost module is and which gathered parameters are trained.

    Measurements start inside the model, and with adapters off: a first pass of theirs would decide otherwise.
    """
    mixed = torch.autocast(policy.device.type, dtype=policy.compute_dtype, enabled=policy.device.type == "cuda")
    with torch.no_grad(), mixed:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=policy.device), use_cache=False)
    model.reshard()
