"""Greedy answers to held-out prompts, compared with a reference to the letter: what sft and dpo share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.common.causal import CausalLM, Sample
from components.common.chat import Chat
from components.common.generation import Sampling, generate_shared


@dataclass(frozen=True)
class Exchange:
    """A held-out prompt and the answer that the data give to it.

    Attributes:
        prompt: Token ids up to the point where the model answers.
        answer: Token ids of the reference, with its end-of-turn token.
        question: Text of the last turn before the answer.
    """

    prompt: NDArray[np.int64]
    answer: NDArray[np.int64]
    question: str


@dataclass(frozen=True)
class Answers:
    """A model's answers.

    Attributes:
        right: 1 where the answer is the reference, to the letter and ended by itself, else 0; shape (exchanges,).
        samples: The first answers beside their references.
    """

    right: NDArray[np.float64]
    samples: list[Sample]

    def metrics(self) -> dict[str, float]:
        """Number of prompts and share of right answers; the latter only if something was asked."""
        share = {"exact_match": float(self.right.mean())} if len(self.right) else {}
        return {"prompts": len(self.right), **share}


def answer_exchanges(
    model: CausalLM, exchanges: Sequence[Exchange], max_new_tokens: int, num_samples: int, max_tokens: int
) -> Answers:
    """Answers the prompts greedily and compares with the references.

    Args:
        model: With whatever adapter is active.
        exchanges: What to ask.
        max_new_tokens: Longest answer.
        num_samples: How many answers are kept as text.
        max_tokens: Positions in a batch, prompts and answers.
    """
    stop = (Chat(model.tokenizer).end_of_turn_id,)
    prompts = [exchange.prompt for exchange in exchanges]
    written = generate_shared(model.model, prompts, Sampling(max_new_tokens, stop), model.policy, max_tokens=max_tokens)

    def text(ids: NDArray[np.int64]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    # An answer that does not stop by itself is wrong even if its beginning is right.
    right = [
        text(ids) == text(exchange.answer) and len(ids) > 0 and int(ids[-1]) in stop
        for ids, exchange in zip(written, exchanges, strict=True)
    ]
    samples = [
        {"prompt": exchange.question, "reference": text(exchange.answer), "answer": text(ids)}
        for exchange, ids in zip(exchanges[:num_samples], written, strict=False)
    ]
    return Answers(np.asarray(right, np.float64), samples)
