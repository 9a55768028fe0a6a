"""Loading a model to answer or to judge with, under the device policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.common.adapters import load_adapter_weights, read_adapter_config
from components.common.device import DevicePolicy, device_policy
from components.common.errors import InputError, UserError
from components.common.evaluation import evaluating, score_sequences
from components.common.forward_pass import last_token_scores
from components.common.models import load_causal_lm, load_reward_model
from components.inference.source import ModelSource
from components.reward.parity import load_parity

ADAPTER = "default"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, with its adapter if it has one, on its device."""

    model: Any
    policy: DevicePolicy


@dataclass(frozen=True)
class RewardModel:
    """A backbone, with its adapter if it has one, and the weight of its score head, shape (1, hidden)."""

    model: Any
    head: torch.Tensor
    policy: DevicePolicy

    def score(self, rows: Sequence[NDArray[np.int64]], max_tokens: int) -> NDArray[np.float64]:
        """Scores token sequences at their last token.

        Args:
            rows: Token ids of each sequence, ended by the end-of-turn token.
            max_tokens: Positions in a batch.

        Returns:
            Shape (rows,).
        """

        def score(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return last_token_scores(self.model, ids, mask, self.head)

        with evaluating(self.model):
            return score_sequences(score, rows, self.policy, max_tokens)


def load_language_model(source: ModelSource) -> LanguageModel:
    """Loads a model that writes.

    Raises:
        InputError: Weights are missing, or an adapter's tensors have no place in its base.
    """
    policy = device_policy()
    model = load_causal_lm(source.weights, policy)
    if source.adapter is not None:
        model, _ = _with_adapter(model, source)
    return LanguageModel(model, policy)


def load_judge(source: ModelSource, max_tokens: int) -> RewardModel:
    """Loads a reward model and sees that it scores as it did when it was trained.

    Args:
        source: A merged reward model, or its adapter and base.
        max_tokens: Positions in a batch.

    Raises:
        InputError: Weights are missing, or its scores are not those that it was trained to give.
    """
    policy = device_policy()
    if source.adapter is None:
        model = load_reward_model(source.weights, policy)
        head = getattr(getattr(model, "score", None), "weight", None)
        if head is None or head.shape[0] != 1:
            raise InputError("has no head `score` that gives one number", where=str(source.weights))
    else:
        model, head = _with_adapter(load_causal_lm(source.weights, policy), source)
        if head is None:
            raise InputError("the adapter has no score head", where=source.artifact.uri, hint="run reward again")
    judge = RewardModel(model, head.detach().to(policy.device), policy)
    parity = load_parity(source.artifact.folder)
    if parity is not None:
        parity.check(judge.score(parity.sequences, max_tokens), where=source.artifact.uri)
    return judge


@contextmanager
def enough_memory() -> Iterator[None]:
    """Says what to do when the device's memory is too small.

    Raises:
        UserError: It was.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError("does not fit into the device's memory", where="--batch-tokens", hint="give fewer") from error


def _with_adapter(model: Any, source: ModelSource) -> tuple[Any, torch.Tensor | None]:
    """Puts the adapter on its base; returns the score head, too, if the adapter brings one."""
    from peft import get_peft_model

    assert source.adapter is not None
    adapted = get_peft_model(model, read_adapter_config(source.adapter), adapter_name=ADAPTER)
    return adapted, load_adapter_weights(adapted, source.adapter, ADAPTER)
