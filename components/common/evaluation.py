"""Held-out metrics, measured the same way before and after training, in every stage.

`Trainer.evaluate` averages batch means, so its "loss" depends on the batch size; here a loss is the summed negative
log-likelihood over the summed label tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from components.common import distributed, heartbeat
from components.common.device import DevicePolicy
from components.common.sharding import in_step, is_sharded
from components.data.table import TokenTable

HEAD_ROWS = 512  # positions whose logits exist at a time: 512 × 151,000 float32 are 0.3 GB


@dataclass(frozen=True)
class Likelihood:
    """Summed negative log-likelihood in nats and the number of label tokens it was summed over."""

    nll: float
    tokens: int

    @property
    def loss(self) -> float:
        """Nats a label token."""
        return self.nll / max(self.tokens, 1)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 80.0))


@dataclass(frozen=True)
class PairScores:
    """Scores of the two answers of each held-out pair, and their lengths in tokens. All of shape (pairs,)."""

    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]
    chosen_tokens: NDArray[np.int64]
    rejected_tokens: NDArray[np.int64]

    def accuracy(self, where: NDArray[np.bool_] | None = None) -> float:
        """Share of pairs whose chosen answer scores higher; a tie counts one half."""
        margin = self.margins if where is None else self.margins[where]
        return float(((margin > 0) + 0.5 * (margin == 0)).mean()) if len(margin) else float("nan")

    @property
    def margins(self) -> NDArray[np.float64]:
        """Score of the chosen answer minus that of the rejected."""
        return self.chosen - self.rejected

    def metrics(self) -> dict[str, float | int]:
        """Accuracy, margin, loss, and accuracy by which answer is longer (a model that only learnt length shows)."""
        longer = self.chosen_tokens - self.rejected_tokens
        by_length = {"chosen_longer": longer > 0, "equal_length": longer == 0, "chosen_shorter": longer < 0}
        metrics: dict[str, float | int] = {
            "pairs": len(self.margins),
            "accuracy": self.accuracy(),
            "margin": float(self.margins.mean()),
            "loss": float(np.logaddexp(0, -self.margins).mean()),
        }
        for name, where in by_length.items():
            if where.any():
                metrics[f"accuracy_{name}"] = self.accuracy(where)
                metrics[f"pairs_{name}"] = int(where.sum())
        return metrics


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


def pad(rows: Sequence[NDArray[np.int64]], value: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pads rows to one width.

    Returns:
        Token ids and attention mask, both of shape (rows, width).
    """
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), value, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def backbone(model: Any) -> Any:
    """The transformer below a model's head, with any adapters in it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, base.base_model_prefix)


def head_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A causal language model's logits for hidden states, in float32, as its own forward pass gives them.

    Args:
        model: With or without adapters.
        hidden: Last hidden states of any positions, shape (…, hidden).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    logits: torch.Tensor = base.get_output_embeddings()(hidden).float()
    config = base.config
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def autocast(policy: DevicePolicy) -> torch.autocast:
    """Mixed precision on a GPU; nothing on a CPU."""
    on = policy.device.type == "cuda"
    return torch.autocast(policy.device.type, dtype=policy.compute_dtype if on else torch.bfloat16, enabled=on)


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


def last_token_scores(model: Any, ids: torch.Tensor, mask: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """A reward model's scores: its head applied to each row's last token.

    Args:
        model: Whose backbone to use.
        ids: Right-padded token ids, shape (rows, width).
        mask: Attention mask, shape (rows, width).
        head: The score head's weight, shape (1, hidden).

    Returns:
        Scores in float32, shape (rows,).
    """
    hidden = backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = mask.sum(1) - 1
    final = hidden[torch.arange(len(ids), device=ids.device), last]
    with torch.autocast(final.device.type, enabled=False):  # it would round the product to half precision
        scores: torch.Tensor = (final.float() @ head.float().T).squeeze(-1)
    return scores


def gain_interval(
    before: NDArray[np.float64], after: NDArray[np.float64], *, seed: int = 0, rounds: int = 2000
) -> dict[str, float]:
    """Mean improvement and its 95 % interval by paired bootstrap (Efron 1979).

    Args:
        before: One value a prompt.
        after: The same prompts' values after training.
        seed: Of the resampling.
        rounds: Number of resamples.

    Returns:
        `mean`, and the bounds `low` and `high`.
    """
    gain = after - before
    picks = np.random.default_rng(seed).integers(0, len(gain), (rounds, len(gain)))
    low, high = np.quantile(gain[picks].mean(1), [0.025, 0.975])
    return {"mean": float(gain.mean()), "low": float(low), "high": float(high)}
