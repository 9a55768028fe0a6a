"""Ground truth as a reward: these answers can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def exact_answer(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """1 for the right answer to the letter, 0 for any other; called as TRL calls reward functions.

    Args:
        prompts: The questions.
        completions: What the policy wrote.
        answer: The right answers.
    """
    return [float(text.strip() == right.strip()) for text, right in zip(completions, answer, strict=True)]
