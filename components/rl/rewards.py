"""What a completion is worth: the reward model's score and what Python functions say, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common import distributed
from components.common.errors import UserError
from components.common.functions import load_function
from components.rl.config import RlConfig

Function = Callable[..., Any]


@dataclass(frozen=True)
class NamedFunction:
    """A reward function with its name and weight."""

    name: str
    weight: float
    call: Function


def reward_functions(config: RlConfig) -> tuple[NamedFunction, ...]:
    """Imports the reward functions that the configuration names."""
    return tuple(NamedFunction(f.name, f.weight, load_function(f.function)) for f in config.reward_functions)


def call_function(
    function: Function, name: str, prompts: Sequence[str], completions: Sequence[str], columns: Sequence[dict[str, Any]]
) -> NDArray[np.float64]:
    """Calls a reward function on a batch, in one process; the others get what it said.

    Args:
        function: Called with lists of equal length as keyword arguments, as TRL does.
        name: For messages.
        prompts: The last user turn of each row.
        completions: What the policy wrote, without special tokens.
        columns: The other columns of each row; the function gets those that all rows have.

    Returns:
        Rewards of shape (rows,).

    Raises:
        UserError: It fails, or returns something other than one finite number a row.
    """
    rewards = _call(function, name, prompts, completions, columns) if distributed.is_main() else []
    return np.asarray(distributed.from_main(rewards), np.float64)


def _call(
    function: Function, name: str, prompts: Sequence[str], completions: Sequence[str], columns: Sequence[dict[str, Any]]
) -> list[float]:
    shared = set(columns[0]).intersection(*columns) if columns else set()
    extra = {column: [row[column] for row in columns] for column in sorted(shared)}
    try:
        rewards = [float(value) for value in function(prompts=list(prompts), completions=list(completions), **extra)]
    except Exception as error:  # a user's function may raise anything
        raise UserError(
            f"raised {type(error).__name__}: {error}",
            where=f"reward function {name}",
            hint=f"it is called with {', '.join(('prompts', 'completions', *extra))}",
        ) from error
    if len(rewards) != len(prompts) or not all(map(math.isfinite, rewards)):
        raise UserError(
            f"must return one finite number for each of the {len(prompts)} completions", where=f"reward function {name}"
        )
    return rewards
