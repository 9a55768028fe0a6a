"""Which prompts are worth rolling out: groups that the model solves sometimes, not always and not never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.common.errors import UserError
from components.common.functions import load_function
from components.common.generation import Sampling
from components.common.logs import say
from components.rl.config import RlConfig, SolveRate
from components.rl.rewards import call_function
from components.rl.roles import Roles
from components.rl.rollout import Prompts, roll_out


@dataclass(frozen=True)
class Chosen:
    """Rows of the training and held-out prompts that are used, and each group's rate of solving."""

    train: list[int]
    heldout: list[int]
    rates: dict[str, float] = field(default_factory=dict)


def choose(
    config: RlConfig,
    roles: Roles,
    train: Prompts,
    heldout: Prompts,
    sampling: Sampling,
    decode: Callable[[NDArray[np.int64]], str],
    seed: int,
) -> Chosen:
    """Samples answers to some training prompts of each group and keeps the groups whose rate is in range.

    Raises:
        UserError: No group is left.
    """
    settings = config.solve_rate
    if settings is None:
        return Chosen(list(range(len(train))), list(range(len(heldout))))
    groups = _groups(train, settings.group_by)
    tried = {name: _some(rows, settings.samples, seed) for name, rows in groups.items()}
    solved = _solved(config, settings, roles, train, [row for rows in tried.values() for row in rows], sampling, decode)
    rates = {name: sum(solved[row] for row in rows) / len(rows) for name, rows in tried.items()}
    kept = {name for name, rate in rates.items() if settings.low <= rate <= settings.high}
    shown = ", ".join(f"{name} {rate:.0%}{'' if name in kept else ' (left out)'}" for name, rate in rates.items())
    say("rl", f"solve rates: {shown}")
    if not kept:
        raise UserError(
            f"no group of prompts is solved between {settings.low:.0%} and {settings.high:.0%} of the time: {shown}",
            where="rl.solve_rate",
            hint="offer other prompts, train sft more or less, or widen low and high",
        )
    within = _groups(heldout, settings.group_by)
    rows = sorted(row for name in kept for row in within.get(name, []))
    if not rows:
        raise UserError(
            f"no held-out prompt is in the groups that are kept: {', '.join(sorted(kept))}",
            where="rl.solve_rate",
            hint="offer more prompts, or raise data.heldout",
        )
    return Chosen(sorted(row for name in kept for row in groups[name]), rows, rates)


def _groups(prompts: Prompts, column: str) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for row, record in enumerate(prompts.records):
        if column not in record:
            raise UserError(f"prompts have no column {column!r}", where="rl.solve_rate.group_by")
        groups.setdefault(str(record[column]), []).append(row)
    return dict(sorted(groups.items()))


def _some(rows: list[int], count: int, seed: int) -> list[int]:
    picked = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[i] for i in picked]


def _solved(
    config: RlConfig,
    settings: SolveRate,
    roles: Roles,
    prompts: Prompts,
    rows: Sequence[int],
    sampling: Sampling,
    decode: Callable[[NDArray[np.int64]], str],
) -> dict[int, bool]:
    rollout = roll_out(roles, prompts, rows, sampling, 1, config.eval_tokens)
    values = call_function(
        load_function(settings.function),
        settings.function,
        [prompts.question(row) for row in rollout.rows],
        [decode(ids) for ids in rollout.completions],
        [prompts.columns(row) for row in rollout.rows],
    )
    return {row: bool(value > 0) for row, value in zip(rollout.rows, values, strict=True)}
