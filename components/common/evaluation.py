"""Held-out metrics, measured the same way before and after training, in every stage.

`Trainer.evaluate` averages batch means, so its "loss" depends on the batch size; here a loss is the summed negative
log-likelihood over the summed label tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from components.common import distributed, heartbeat
from components.common.device import DevicePolicy
from components.common.forward_pass import autocast, backbone, head_logits, pad
from components.common.heldout import Likelihood
from components.common.sharding import in_step, is_sharded
from components.data.table import TokenTable

HEAD_ROWS = 512  # positions whose logits exist at a time: 512 × 151,000 float32 are 0.3 GB


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inference mode without dropout; the training mode and the random state are afterwards as they were.

    Each process may make as many forward passes as it likes, but processes may exchange nothing else meanwhile.
    """
    training = model.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    # What FSDP gathers in inference mode it could not use in training.
    mode = torch.no_grad() if is_sharded(model) else torch.inference_mode()
    model.eval()
    try:
        with torch.random.fork_rng(devices), mode, in_step(model, backbone(model)):
            yield
    finally:
        model.train(training)


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups sequences of like length into batches of at most `max_tokens` positions, padding included."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        widest = lengths[batches[-1][0]] if batches else 0
        if batches and widest * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def likelihood(
    model: Any, table: TokenTable, sequences: Sequence[int], policy: DevicePolicy, max_tokens: int
) -> Likelihood:
    """Negative log-likelihood of the label tokens of a table's sequences, unpacked; the head sees label positions only.

    Args:
        model: A causal language model, with or without adapters.
        table: Where the sequences are.
        sequences: Which of them.
        policy: Device and type.
        max_tokens: Positions in a batch.
    """
    totals = torch.zeros(2, dtype=torch.float64, device=policy.device)
    with evaluating(model), autocast(policy):
        mine = distributed.shard(batches_by_length([len(table.ids(i)) for i in sequences], max_tokens))
        for batch in mine:
            heartbeat.beat()
            for logits, labels, _ in _label_logits(model, table, [sequences[i] for i in batch], policy):
                totals[0] += nn.functional.cross_entropy(logits, labels, reduction="sum").double()
                totals[1] += len(labels)
    distributed.sum_over_ranks(totals)
    return Likelihood(float(totals[0]), int(totals[1]))


def sequence_log_probs(model: Any, table: TokenTable, policy: DevicePolicy, max_tokens: int) -> NDArray[np.float64]:
    """Log-probability of each sequence's label tokens, given the tokens before them.

    Args:
        model: A causal language model, with whatever adapter is active.
        table: The sequences; those of a preference dataset carry labels on the answer alone.
        policy: Device and type.
        max_tokens: Positions in a batch.

    Returns:
        Sums over the label tokens in nats, shape (sequences,).
    """
    results: list[tuple[int, float]] = []
    with evaluating(model), autocast(policy):
        for batch in distributed.shard(batches_by_length(table.lengths.tolist(), max_tokens)):
            heartbeat.beat()
            sums = np.zeros(len(batch))
            for logits, labels, rows in _label_logits(model, table, batch, policy):
                nll = nn.functional.cross_entropy(logits, labels, reduction="none")
                # Summed here, in order: a GPU would sum in any, and two equal policies would no longer tie.
                sums -= np.bincount(rows.cpu().numpy(), nll.double().cpu().numpy(), len(batch))
            results += zip(batch, sums.tolist(), strict=True)
    sums_by_row = dict(distributed.gather(results))
    return np.asarray([sums_by_row[i] for i in range(len(table))], np.float64)


def _label_logits(
    model: Any, table: TokenTable, batch: Sequence[int], policy: DevicePolicy
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Logits, labels and row in the batch of every label token, a part at a time; the head sees no other position."""
    ids, mask = pad([table.ids(i) for i in batch], 0, policy.device)
    labels, _ = pad([table.labels(i) for i in batch], -100, policy.device)
    hidden = backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    target = labels[:, 1:]
    wanted = target != -100
    parts = (hidden[:, :-1][wanted], target[wanted], wanted.nonzero()[:, 0])
    for states, labelled, rows in zip(*(part.split(HEAD_ROWS) for part in parts), strict=True):
        yield head_logits(model, states), labelled, rows


def score_sequences(
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    rows: Sequence[NDArray[np.int64]],
    policy: DevicePolicy,
    max_tokens: int,
    during: AbstractContextManager[None] | None = None,
) -> NDArray[np.float64]:
    """Scores token sequences with a reward function over padded batches.

    Args:
        score: From token ids and attention mask of shape (rows, width) to scores of shape (rows,).
        rows: Token ids of each sequence.
        policy: Device and type.
        max_tokens: Positions in a batch.
        during: Entered to score, left before processes exchange scores; inference mode by default.

    Returns:
        Scores of shape (rows,), in the order given.
    """
    batches = batches_by_length([len(row) for row in rows], max_tokens)
    results: list[tuple[int, float]] = []
    with during or torch.inference_mode(), autocast(policy):
        for batch in distributed.shard(batches):
            heartbeat.beat()
            ids, mask = pad([rows[i] for i in batch], 0, policy.device)
            results += zip(batch, score(ids, mask).float().tolist(), strict=True)
    scores = dict(distributed.gather(results))
    return np.asarray([scores[i] for i in range(len(rows))], np.float64)
