"""What a stage holds at a moment, by what it is for: weights, activations, logits, cache. All in bytes."""

from __future__ import annotations

from pipelines.plan.activations import (
    FLOAT32,
    Batch,
    Numerics,
    backward_transient,
    forward_transient,
    kept,
    kv_cache,
)
from pipelines.plan.architecture import Architecture

LOGITS_AT_ONCE = 2**25  # components.common.label_head.LOGITS_AT_ONCE, which cannot be imported without torch
HEAD_ROWS = 512  # components.common.evaluation.HEAD_ROWS
TRL_TILE = (4096, 32768)  # positions and tokens whose logits TRL's head for dpo computes at once
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: four bits, a byte for 64 weights, a float32 for 256 of these


def weights(model: Architecture, numerics: Numerics, *, head: bool = True) -> int:
    """Bytes of the frozen base on the GPU, without its head if a score takes its place."""
    linear, other = model.linear_parameters, outer_parameters(model, head=head)
    return int(linear * (NF4 if numerics.quantised else numerics.bytes)) + other * numerics.bytes


def gathered(model: Architecture, numerics: Numerics, *, head: bool = True) -> int:
    """Bytes of split parameters that are whole at a time: embedding and head, a block, and the next one on its way."""
    if numerics.shards == 1:
        return 0
    return int((outer_parameters(model, head=head) + 2 * model.linear_parameters / model.layers) * numerics.bytes)


def outer_parameters(model: Architecture, *, head: bool = True) -> int:
    """Parameters outside the blocks' linear layers."""
    other = model.parameters - model.linear_parameters
    return other if head or model.tied else other - model.embedding_parameters


def training_step(stage: str, model: Architecture, numerics: Numerics, batch: Batch, labels: int) -> dict[str, int]:
    """Activations and logits where they are most: at the end of the forward pass, or soon after it."""
    held = kept(model, numerics, batch)
    backward = backward_transient(model, numerics, batch)
    if stage == "reward":
        return {"activations": held + backward}
    if stage == "dpo":  # the reference's forward pass runs while the policy's activations wait
        reference = forward_transient(model, numerics, batch, adapters=False)
        logits = _trl_logits(model, numerics, labels)
        return {"activations": held + max(0, max(reference, backward) - logits), "logits": logits}
    states = labels * model.hidden_size * (numerics.bytes + FLOAT32)
    chunk = 4 * FLOAT32 * min(labels, max(1, LOGITS_AT_ONCE // model.vocab_size)) * model.vocab_size
    if numerics.full:
        chunk += 2 * FLOAT32 * model.embedding_parameters
    # Logits are gone when the layers' gradients come.
    return {"activations": held + states + max(0, backward - chunk), "logits": chunk}


def _trl_logits(model: Architecture, numerics: Numerics, labels: int) -> int:
    """TRL's head for dpo computes a tile of logits at a time: its kernel in place, plain torch on seven copies."""
    rows = min(labels, TRL_TILE[0])
    columns = min(model.vocab_size, TRL_TILE[1])
    return rows * (TRL_TILE[1] * numerics.bytes + (0 if numerics.mixed else 7 * FLOAT32 * columns))


def evaluation(stage: str, model: Architecture, numerics: Numerics, tokens: int) -> dict[str, int]:
    """Held-out rows are short beside a batch of them, so that their masks take nothing."""
    transient = forward_transient(model, numerics, Batch(1, tokens)) - tokens**2 * (1 + numerics.bytes)
    if stage == "reward":
        return {"activations": transient}
    return {"activations": transient, "logits": 3 * FLOAT32 * min(HEAD_ROWS, tokens) * model.vocab_size}


def rows_at_once(tokens: int, length: int, wanted: int) -> int:
    """Rows of one length in a batch of at most so many tokens, if so many are wanted."""
    return min(max(1, tokens // length), wanted)


def generation(
    model: Architecture,
    numerics: Numerics,
    tokens: int,
    prompts: int,
    prompt: int,
    answer: int,
    *,
    adapters: bool = True,
) -> dict[str, int]:
    """Prompts are read with the cache already there; then tokens come one by one, each row's logits in float64 too."""
    rows = rows_at_once(tokens, prompt + answer, prompts)
    choosing = rows * model.vocab_size * (2 * FLOAT32 + 2 * 8)
    return {
        "activations": forward_transient(model, numerics, Batch(rows, prompt), adapters=adapters),
        "logits": choosing,
        "cache": kv_cache(model, numerics, rows, prompt + answer - 1),
    }


def foreach_adam(trained: int) -> int:
    """Adam without fusing makes the denominators of all parameters at once."""
    return FLOAT32 * trained
