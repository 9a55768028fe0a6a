"""Curves and sample answers as trainings leave them, for the report's tests."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

QUESTIONS = (
    ("Which side does S52.521A name?", "right", "left"),
    ("Which encounter does M84.452D name?", "subsequent encounter", "initial encounter"),
    ("Which chapter is J45.40 in?", "X. Diseases of the respiratory system", "IX. Diseases of the circulatory system"),
    ("What is the parent of E11.321?", "E11.32", "E11.3"),
    ("Which side does H40.1122 name?", "left", "right"),
    ("Write S72.041A in full.", "Displaced fracture of base of neck of right femur, initial encounter", "fracture"),
    ("Which fracture does the D in S52.521D mean?", "routine healing", "delayed healing"),
    ("Which side does M17.11 name?", "right", "left"),
    ("Which chapter is O80 in?", "XV. Pregnancy, childbirth and the puerperium", "XIV."),
)


def curve(
    steps: int, every: int, values: Mapping[str, Callable[[float, random.Random], float]]
) -> list[dict[str, float]]:
    """Points over a training from 0 to 1."""
    rng = random.Random(steps)
    return [
        {"step": step, **{name: value(step / steps, rng) for name, value in values.items()}}
        for step in range(every, steps + 1, every)
    ]


def falling(high: float, low: float, noise: float = 0.05) -> Callable[[float, random.Random], float]:
    return lambda t, rng: low + (high - low) * math.exp(-5 * t) + rng.gauss(0, noise)


def rising(low: float, high: float, noise: float = 0.02) -> Callable[[float, random.Random], float]:
    return lambda t, rng: high - (high - low) * math.exp(-4 * t) + rng.gauss(0, noise)


def cosine(peak: float) -> Callable[[float, random.Random], float]:
    return lambda t, _: peak * min(1, t / 0.03) * 0.5 * (1 + math.cos(math.pi * t))


def answers(right_before: int, right_after: int) -> list[dict[str, str]]:
    return [
        {
            "prompt": question,
            "reference": right,
            "before": right if index < right_before else wrong,
            "answer": right if index < right_after else wrong,
        }
        for index, (question, right, wrong) in enumerate(QUESTIONS)
    ]
