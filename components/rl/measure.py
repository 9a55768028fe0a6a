"""Measuring a policy on held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.common.causal import Sample
from components.common.generation import GREEDY, Sampling
from components.rl.experience import Setup, Worth, judge, micro_batches, token_values
from components.rl.roles import Roles
from components.rl.rollout import Rollout, roll_out

EVALUATION_STEP = -1  # part of the key of random numbers: evaluation draws others than any rollout


@dataclass(frozen=True)
class Measured:
    """One sample for each held-out prompt, judged, and a few greedy answers."""

    worth: Worth
    kl: NDArray[np.float64]
    ended: NDArray[np.bool_]
    samples: list[Sample]

    def metrics(self) -> dict[str, float]:
        """Means over the prompts."""
        return {
            "reward": float(self.worth.scores.mean()),
            **{name: float(values.mean()) for name, values in self.worth.functions.items()},
            "kl": float(self.kl.mean()),
            "ended": float(self.ended.mean()),
            "prompts": len(self.kl),
        }


def measure(setup: Setup, rows: list[int], stop: int) -> Measured:
    """Samples an answer to each prompt, with the same random numbers every time, and has it judged."""
    roles, prompts, config = setup.roles, setup.prompts, setup.config
    sampling = Sampling(config.max_completion_length, (stop,), config.temperature, setup.seed, EVALUATION_STEP)
    rollout = roll_out(roles, prompts, rows, sampling, 1, config.eval_tokens)
    greedy = Sampling(config.max_completion_length, (stop,), GREEDY)
    shown = roll_out(roles, prompts, rows[: config.num_samples], greedy, 1, config.eval_tokens)
    samples = [
        {"prompt": prompts.question(row), "answer": setup.decode(ids), "reference": prompts.reference(row)}
        for row, ids in zip(shown.rows, shown.completions, strict=True)
    ]
    kl = sequence_kl(roles, rollout, config.per_device_train_batch_size)
    return Measured(judge(setup, rollout), kl, rollout.ended, samples)


def sequence_kl(roles: Roles, rollout: Rollout, size: int) -> NDArray[np.float64]:
    """Each completion's log-ratio of policy to reference, summed over its tokens: shape (completions,)."""
    pieces = micro_batches(rollout, range(len(rollout)), size)
    policy = token_values(roles, rollout, pieces, "policy", roles.logprobs)
    reference = token_values(roles, rollout, pieces, "reference", roles.logprobs)
    log_ratio: NDArray[np.float64] = ((policy - reference) * rollout.mask).sum(1).double().numpy()
    return log_ratio
