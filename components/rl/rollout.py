"""Prompts and what the policy writes after them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.common import distributed
from components.common.chat import Message
from components.common.forward_pass import pad
from components.common.generation import Sampling, generate
from components.data.table import TokenTable, read_jsonl
from components.rl.halt import NEVER, Halt

if TYPE_CHECKING:  # evaluate takes prompts from here, and has no use for PEFT
    from components.rl.roles import Roles


@dataclass(frozen=True)
class Prompts:
    """Prompts as token ids, with their text and the columns for reward functions."""

    table: TokenTable
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    def messages(self, row: int) -> list[Message]:
        """The conversation up to the completion."""
        return [Message(turn["role"], turn["content"]) for turn in self.records[row]["messages"]]

    def question(self, row: int) -> str:
        """The last turn of a prompt."""
        return str(self.records[row]["messages"][-1]["content"])

    def reference(self, row: int) -> str:
        """The right answer, if the row names one."""
        return str(self.records[row].get("answer", self.records[row].get("reference", "")))

    def columns(self, row: int) -> dict[str, Any]:
        """A row's columns other than the prompt itself."""
        return {name: value for name, value in self.records[row].items() if name != "messages"}

    @staticmethod
    def load(folder: Path) -> Prompts:
        """Reads a split of an rl dataset."""
        return Prompts(TokenTable.load(folder), read_jsonl(folder / "rows.jsonl"))


@dataclass(frozen=True)
class Rollout:
    """A batch of completions.

    Attributes:
        rows: Each completion's prompt, a row of `Prompts`.
        prompts: Token ids of each prompt.
        completions: Token ids of each completion.
        stop: The end-of-turn token.
    """

    rows: list[int]
    prompts: list[NDArray[np.int64]]
    completions: list[NDArray[np.int64]]
    stop: int

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def sequences(self) -> list[NDArray[np.int64]]:
        """Prompt and completion as one sequence, as the reward model was trained to read it."""
        return [np.concatenate(pair) for pair in zip(self.prompts, self.completions, strict=True)]

    @cached_property
    def ended(self) -> NDArray[np.bool_]:
        """Whether a completion ends by itself."""
        return np.asarray([len(ids) > 0 and int(ids[-1]) == self.stop for ids in self.completions])

    @cached_property
    def mask(self) -> torch.Tensor:
        """1 on completion tokens: shape (completions, longest completion), float32."""
        lengths = torch.tensor([len(ids) for ids in self.completions])
        return (torch.arange(int(lengths.max()))[None] < lengths[:, None]).float()

    def batch(self, rows: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Right-padded sequences of some of the completions.

        Returns:
            Token ids, attention mask, and which tokens the policy wrote (boolean); each of shape (rows, width).
        """
        ids, mask = pad([self.sequences[row] for row in rows], 0, device)
        begin = torch.tensor([len(self.prompts[row]) for row in rows], device=device)[:, None]
        return ids, mask, (torch.arange(ids.shape[1], device=device)[None] >= begin) & mask.bool()


def prompt_rows(prompts: Sequence[int], step: int, count: int, seed: int) -> list[int]:
    """The prompts of a rollout batch: epoch after epoch of shuffled prompts, from the step number alone.

    Args:
        prompts: Rows to choose from.
        step: Rollout batch, from 0.
        count: Prompts in a batch.
        seed: Of the shuffling.
    """
    chosen: list[int] = []
    position = step * count
    while len(chosen) < count:
        epoch, offset = divmod(position + len(chosen), len(prompts))
        order = np.random.default_rng((seed, epoch)).permutation(len(prompts))
        chosen += [int(prompts[i]) for i in order[offset : offset + count - len(chosen)]]
    return chosen


def roll_out(
    roles: Roles,
    prompts: Prompts,
    rows: Sequence[int],
    sampling: Sampling,
    num_generations: int,
    max_tokens: int,
    halt: Halt = NEVER,
) -> Rollout:
    """Lets the policy complete prompts, each process its share; all processes then have all completions.

    Args:
        roles: The policy is one of them.
        prompts: Where the prompts are.
        rows: Which of them.
        sampling: How to sample; its first stop token is the end of a turn.
        num_generations: Completions of each prompt.
        max_tokens: Positions in a batch.
        halt: Whether to stop early; completions are then not whole, and must not be used.
    """
    wanted = [row for row in rows for _ in range(num_generations)]
    # The same prompt may come twice, as another sample or because a new epoch begins: how often it came before tells
    # its completions apart.
    seen: Counter[int] = Counter()
    keys = []
    for row in wanted:
        keys.append((row, seen[row]))
        seen[row] += 1
    mine = distributed.shard(range(len(wanted)))
    with roles.writing() as model:
        written = generate(
            model,
            [prompts.table.ids(wanted[i]) for i in mine],
            sampling,
            roles.device_policy,
            max_tokens=max_tokens,
            keys=[keys[i] for i in mine],
            cut_short=halt.asked,
        )
    completions = distributed.gather(written)
    return Rollout(wanted, [prompts.table.ids(row) for row in wanted], completions, sampling.stop[0])
