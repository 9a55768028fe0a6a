"""Run by torchrun: a model that is split between two processes beside the same one whole, step by step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model

from components.common import distributed
from components.common.device import DevicePolicy
from components.common.generation import Sampling, generate
from components.common.guard import end_rank
from components.common.label_head import label_head
from components.common.saving import whole_model
from components.common.sharded_trainer import split_optimizer_state, whole_optimizer_state
from components.common.sharding import build_sharded, is_sharded, local, whole, whole_trainables
from components.common.trainables import float32_trainables, lora_config
from components.common.training import LoraSettings
from components.prepare.scratch import make_tokenizer
from tests.support.models import randomise_lora, tiny_model

CPU = torch.device("cpu")
TOKENS = 44  # labels of the batch below


def build(case: str, policy: DevicePolicy) -> Any:
    """A tiny model, its head tied to its embedding.

    `half` has a float16 base under a float32 adapter; `full` trains all parameters, and `mixed` computes with them in
    float16 where it is split.
    """
    assert policy.device == CPU
    model = tiny_model("bloom" if case == "bloom" else "llama", _tokenizer(), tie_word_embeddings=True).train()
    if case not in ("full", "mixed"):
        model = get_peft_model(model.to(policy.compute_dtype), lora_config(model, LoraSettings(r=3), "CAUSAL_LM"))
        randomise_lora(model, "default")
    float32_trainables(model)
    return model


def compare(case: str) -> dict[str, Any]:
    """Answers, gradients and steps of both models."""
    policy = DevicePolicy(CPU, torch.float16 if case in ("half", "mixed") else torch.float32)
    alone = build(case, policy)
    split = build_sharded("sft", policy, lambda p: build(case, p))
    assert is_sharded(split)
    assert not is_sharded(alone)
    shares = {name: local(p).numel() / p.numel() for name, p in split.named_parameters() if p.numel() > 1}
    answers = [_answers(model, policy) for model in (alone, split)]
    found = {"case": case, "largest_share": max(shares.values()), "same_answers": answers[0] == answers[1]}
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=4.0), _adam(split)
    reference = _adam(alone)
    for step, overflows in enumerate((False, True, False)):
        _gradients(alone, split, scaler)
        if step == 0:
            found["gradients_apart"] = _apart(split, alone, "grad", scaler.get_scale())
        if overflows and distributed.rank() == 1:
            next(local(p.grad) for p in split.parameters() if p.grad is not None).view(-1)[0] = float("inf")
        before = [local(p).clone() for p in split.parameters()]
        scaler.step(optimizer)
        scaler.update()
        moved = any(not torch.equal(was, local(p)) for was, p in zip(before, split.parameters(), strict=True))
        found.setdefault("moved", []).append(moved)
        if not overflows:
            reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
    return {**found, "weights_apart": _apart(split, alone, "data", 1.0), **_state(case, split, optimizer)}


def _state(case: str, split: Any, optimizer: Any) -> dict[str, Any]:
    """Gathers optimizer and weights, splits the former again."""
    gathered = whole_optimizer_state(optimizer)
    kept = [
        {name: local(v).clone() for name, v in values.items()} for values in optimizer.state_dict()["state"].values()
    ]
    shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    everywhere = distributed.from_main(gathered)
    fresh = _adam(split)
    fresh.load_state_dict(split_optimizer_state(fresh, everywhere))
    again = [{name: local(value) for name, value in values.items()} for values in fresh.state_dict()["state"].values()]
    equal = all(torch.equal(one[name], other[name]) for one, other in zip(kept, again, strict=True) for name in one)
    weights = whole_trainables(split)
    values = [tuple(values["exp_avg"].shape) for values in gathered["state"].values()]
    found = {
        "state_survives": equal,
        "state_is_whole": values == shapes if distributed.is_main() else True,
        "names": len(weights),
    }
    if case == "full" and distributed.is_main():
        plain = whole_model(split, weights)
        found["tied"] = plain.lm_head.weight is plain.model.embed_tokens.weight
    return found


def _answers(model: Any, policy: DevicePolicy) -> list[list[int]]:
    """Completions of this process's prompts: one writes twice as many as the other, in more batches."""
    mine = [np.arange(3, 8 + i) for i in range(2 * distributed.rank() + 2)]
    sampling = Sampling(5 + 3 * distributed.rank(), ())
    return [ids.tolist() for ids in generate(model, mine, sampling, policy, max_tokens=20)]


def _gradients(alone: Any, split: Any, scaler: torch.amp.GradScaler) -> None:
    ids = torch.randint(5, 300, (4, 12), generator=torch.Generator().manual_seed(5))
    mine = ids[2 * distributed.rank() :][:2]
    for part in ids.split(1):  # accumulated
        _loss(alone, part).backward()
    for part in mine.split(1):
        scaler.scale(_loss(split, part) * distributed.world_size()).backward()


def _loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with label_head(model):
        nll, _ = model(input_ids=ids, labels=ids)
    return nll / TOKENS


def _apart(split: Any, alone: Any, what: str, scale: float) -> float:
    split.reshard()
    places = dict(alone.named_parameters())
    trained = [(name, p) for name, p in split.named_parameters() if p.requires_grad]
    pairs = [(getattr(p, what), getattr(places[name], what)) for name, p in trained]
    return max((whole(one.detach()) / scale - other).abs().max().item() for one, other in pairs)


def _adam(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, eps=1e-4)


def _tokenizer() -> Any:
    return make_tokenizer(["one two three four five six seven eight nine ten"] * 20, 400)


def main(folder: Path) -> None:
    """Writes what each case gave, a file for each process."""
    distributed.start(CPU)
    found = [compare(case) for case in ("lora", "half", "full", "mixed", "bloom")]
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_rank(0)
