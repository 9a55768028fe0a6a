"""How many completions fit a GPU at once: tried before all else, so that a run does not die of it hours later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from components.common.generation import Sampling, generate
from components.common.micro_batch import fitting, room_for_optimizer
from components.common.stage import Job
from components.rl.config import RlConfig
from components.rl.roles import Roles

_TOKENS = 2  # of a completion that is tried: the first has the prompt beside it, the second all of the cache


def fitted(job: Job[RlConfig], roles: Roles, lengths: Sequence[int]) -> Job[RlConfig]:
    """The stage with no more completions at once than fit every process's GPU; the result is the same up to rounding.

    Args:
        job: The stage.
        roles: The models.
        lengths: Tokens of each prompt.

    Raises:
        UserError: Not even one completion fits.
    """
    if not _is_limited(roles.device_policy.device):
        return job
    sizes = fitting_sizes(job.config, roles, min(lengths), max(lengths))
    return replace(job, plan=replace(job.plan, config=job.config.model_copy(update=sizes)))


def fitting_sizes(config: RlConfig, roles: Roles, shortest: int, longest: int) -> dict[str, int]:
    """The settings `per_device_train_batch_size` and `eval_tokens`, as they are or halved until they fit.

    Args:
        config: Settings.
        roles: The models.
        shortest: Tokens of the shortest prompt.
        longest: Tokens of the longest prompt.
    """
    device, answer = roles.device_policy.device, config.max_completion_length
    rows = fitting(
        "rl", config.per_device_train_batch_size, lambda rows: try_gradients(roles, longest, answer, rows), device
    )
    width = longest + answer
    wished = max(1, config.eval_tokens // width)
    written = fitting(
        "rl",
        wished,
        lambda rows: try_writing(roles, (shortest, longest), answer, rows * width),
        device,
        setting="eval_tokens",
        each=width,
    )
    tokens = config.eval_tokens if written == wished else written * width
    return {"per_device_train_batch_size": rows, "eval_tokens": tokens}


def try_gradients(roles: Roles, prompt: int, answer: int, rows: int) -> None:
    """Computes gradients of all trained roles for so many of the longest completions, and forgets them.

    Raises:
        torch.OutOfMemoryError: They do not fit.
    """
    ids = torch.zeros(rows, prompt + answer, dtype=torch.int64, device=roles.device_policy.device)
    written = torch.zeros_like(ids, dtype=torch.bool)
    written[:, prompt:] = True
    with _as_in_training(roles):
        with roles.use("policy"):
            roles.logprobs(ids, written).sum().backward()
        if roles.value_head is not None:
            with roles.use("critic"):
                roles.values(ids, written).sum().backward()


def try_writing(roles: Roles, prompts: Sequence[int], answer: int, max_tokens: int) -> None:
    """Begins a batch of completions of prompts of each length; the cache has room for all of their tokens at once.

    Raises:
        torch.OutOfMemoryError: They do not fit.
    """
    with _as_in_training(roles):
        for length in prompts:
            _begin(roles, length, answer, max_tokens)


def _begin(roles: Roles, prompt: int, answer: int, max_tokens: int) -> None:
    rows = max(1, max_tokens // (prompt + answer))
    tokens: list[int] = []
    with roles.use("policy") as model:
        generate(
            model,
            [np.zeros(prompt, np.int64)] * rows,
            Sampling(answer, (), temperature=1.0),
            roles.device_policy,
            max_tokens=max_tokens,
            watch=lambda _row, token: tokens.append(token),
            cut_short=lambda: len(tokens) >= _TOKENS * rows,
        )


@contextmanager
def _as_in_training(roles: Roles) -> Iterator[None]:
    """Beside as much memory as gradients, which stay in this stage, and the optimizer will take."""
    trained = [parameter for role in roles.trained for parameter in roles.parameters(role)]
    with room_for_optimizer(trained):
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        yield


def _is_limited(device: torch.device) -> bool:
    return device.type == "cuda"
