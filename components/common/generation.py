"""Batched decoding: left-padded prompts, a key-value cache, rows that are done leave the batch.

Sampling inverts the cumulative distribution at one uniform number a token. That number depends on its row's key and
position alone, so that a sample is the same in whatever batch, on whatever rank and after whatever restart it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.common import distributed, heartbeat
from components.common.device import DevicePolicy
from components.common.evaluation import batches_by_length, evaluating
from components.common.forward_pass import autocast, backbone, head_logits

GREEDY = 0.0
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sampling:
    """How to decode.

    Attributes:
        max_new_tokens: Longest completion, the end-of-turn token included.
        stop: Token ids that end a completion.
        temperature: 0 takes the most likely token.
        seed: First part of the key of the random numbers.
        step: Second part; the third is the row's own key.
        top_k: Sample from the so many most likely tokens only; 0 from all.
        top_p: Sample from the fewest most likely tokens that have this probability together (nucleus sampling, Holtzman
            et al. 2019, arXiv:1904.09751); after temperature and `top_k`, as in transformers.
        max_positions: Positions that the model has for prompt and completion together, if it has a limit: a completion
            that reaches it is cut off.
    """

    max_new_tokens: int
    stop: tuple[int, ...]
    temperature: float = GREEDY
    seed: int = 0
    step: int = 0
    top_k: int = 0
    top_p: float = 1.0
    max_positions: int | None = None

    def limit(self, prompt: Ids) -> int:
        """Longest completion of a prompt."""
        room = self.max_new_tokens if self.max_positions is None else self.max_positions - len(prompt)
        return min(self.max_new_tokens, room)


def generate(
    model: Any,
    prompts: Sequence[Ids],
    sampling: Sampling,
    policy: DevicePolicy,
    *,
    max_tokens: int = 16384,
    keys: Sequence[tuple[int, ...]] | None = None,
    watch: Callable[[int, int], None] | None = None,
    cut_short: Callable[[], bool] = lambda: False,
) -> list[Ids]:
    """Completes prompts.

    Args:
        model: A causal language model, with whatever adapter is active.
        prompts: Token ids of each prompt.
        sampling: How to decode.
        policy: Device and type.
        max_tokens: Positions in a batch, prompt and completion.
        keys: Each row's part of the key of the random numbers; its index by default.
        watch: Called with a row's index and its next token as soon as that is there.
        cut_short: Looked at before every token; once it is true, completions stay as they are, some of them empty.

    Returns:
        Token ids of each completion, in the order given, ended by a stop token unless cut off by a limit of `sampling`.
    """
    keys = [(index,) for index in range(len(prompts))] if keys is None else keys
    longest = [len(prompt) + sampling.limit(prompt) for prompt in prompts]
    completions: list[Ids] = [np.zeros(0, np.int64)] * len(prompts)
    with evaluating(model), autocast(policy):
        for batch in batches_by_length(longest, max_tokens):
            emit = None if watch is None else partial(_emit, watch, batch)
            rows = _decode(
                model, [prompts[i] for i in batch], [keys[i] for i in batch], sampling, policy, emit, cut_short
            )
            for index, row in zip(batch, rows, strict=True):
                completions[index] = row
    return completions


def generate_shared(
    model: Any, prompts: Sequence[Ids], sampling: Sampling, policy: DevicePolicy, *, max_tokens: int = 16384
) -> list[Ids]:
    """Completes prompts, each process its share; all processes then have all completions."""
    mine = distributed.shard(range(len(prompts)))
    keys = [(index,) for index in mine]
    written = generate(model, [prompts[i] for i in mine], sampling, policy, max_tokens=max_tokens, keys=keys)
    return distributed.gather(written)


def _emit(watch: Callable[[int, int], None], batch: Sequence[int], row: int, token: int) -> None:
    watch(batch[row], token)


def _decode(
    model: Any,
    prompts: Sequence[Ids],
    keys: Sequence[tuple[int, ...]],
    sampling: Sampling,
    policy: DevicePolicy,
    emit: Callable[[int, int], None] | None,
    cut_short: Callable[[], bool],
) -> list[Ids]:
    from components.common.kv_cache import roomy_cache

    device = policy.device
    ids, mask = left_pad(prompts, device)
    transformer = backbone(model)
    cache = roomy_cache(transformer.config, room=sampling.max_new_tokens - 1)
    uniform = [_uniform_numbers(sampling, key) for key in keys]
    limits = [sampling.limit(prompt) for prompt in prompts]
    alive = list(range(len(prompts)))
    written: list[list[int]] = [[] for _ in prompts]
    position = mask.sum(1, keepdim=True) - 1
    step_ids, step_position = ids, (mask.cumsum(1) - 1).clamp(min=0)
    for index in range(sampling.max_new_tokens):
        if cut_short():
            break
        heartbeat.beat()
        out = transformer(
            input_ids=step_ids,
            attention_mask=mask,
            position_ids=step_position,
            past_key_values=cache,
            use_cache=True,
        )
        logits = head_logits(model, out.last_hidden_state[:, -1])
        tokens = _choose(logits, [uniform[row][index] for row in alive], sampling)
        for row, token in zip(alive, tokens.tolist(), strict=True):
            written[row].append(token)
            if emit is not None:
                emit(row, token)
        going = [
            i
            for i, row in enumerate(alive)
            if written[row][-1] not in sampling.stop and len(written[row]) < limits[row]
        ]
        if not going:
            break
        if len(going) < len(alive):
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            mask, position, tokens = mask[keep], position[keep], tokens[keep]
            alive = [alive[i] for i in going]
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        step_ids, step_position = tokens[:, None], position
    return [np.asarray(row, np.int64) for row in written]


def left_pad(rows: Sequence[Ids], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-pads rows to one width.

    Returns:
        Token ids and attention mask, both of shape (rows, width).
    """
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        mask[index, width - len(row) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _uniform_numbers(sampling: Sampling, key: tuple[int, ...]) -> NDArray[np.float64]:
    """One number in [0, 1) for each token that a row may get."""
    identity = [part & 0xFFFFFFFFFFFFFFFF for part in (sampling.seed, sampling.step, *key)]
    return np.random.default_rng(identity).random(sampling.max_new_tokens)


def _choose(logits: torch.Tensor, uniform: Sequence[float], sampling: Sampling) -> torch.Tensor:
    """The next token of each row; logits of shape (rows, vocabulary), float32."""
    if sampling.temperature == GREEDY:
        return logits.argmax(-1)
    # In float64 a sum over a large vocabulary still tells neighbouring tokens apart.
    cumulative = _likely(logits / sampling.temperature, sampling).softmax(-1).double().cumsum(-1)
    target = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _likely(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Scores in which the tokens that `top_k` and `top_p` rule out are minus infinity."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    no_ids: Any = None  # neither looks at them
    if sampling.top_k:
        scores = TopKLogitsWarper(min(sampling.top_k, scores.shape[-1]))(no_ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(no_ids, scores)
    return scores
