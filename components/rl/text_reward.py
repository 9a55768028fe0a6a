"""A reward model that has words of its own: it is given the conversation's text, never the policy's token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.common.chat import Chat, Message, SpecialTokenInTextError
from components.common.device import DevicePolicy
from components.common.errors import InputError
from components.common.evaluation import score_sequences
from components.common.models import load_sequence_classifier
from components.common.tokenizer import load_tokenizer
from components.rl.halt import NEVER, Halt


@dataclass(frozen=True)
class TextReward:
    """A sequence classification model with one output, and its tokenizer.

    Attributes:
        model: Frozen, in evaluation mode.
        tokenizer: Its own, with its own chat template.
        policy: Device and type.
        worst: Score of a completion that cannot be rendered, because it holds the text of a special token.
    """

    model: Any
    tokenizer: Any
    policy: DevicePolicy
    worst: float = -10.0

    @staticmethod
    def load(folder: Path, policy: DevicePolicy) -> TextReward:
        """Loads a model from a Hugging Face folder.

        Raises:
            InputError: It has more than one output, or cannot be loaded.
        """
        tokenizer = load_tokenizer(folder)
        model = load_sequence_classifier(folder, policy).eval()
        if model.config.num_labels != 1:
            raise InputError(
                f"a reward model has one output, this one {model.config.num_labels}",
                where=str(folder),
                hint="give a model trained with num_labels=1",
            )
        model.config.pad_token_id = tokenizer.pad_token_id
        model.requires_grad_(False)
        return TextReward(model, tokenizer, policy)

    def scores(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[str],
        max_tokens: int,
        halt: Halt = NEVER,
    ) -> NDArray[np.float64]:
        """Scores answers to conversations.

        Args:
            prompts: The conversations up to the answer.
            completions: The answers, without special tokens.
            max_tokens: Positions in a batch.
            halt: Whether to score the rest as zero.

        Returns:
            Shape (completions,).
        """
        chat = Chat(self.tokenizer)
        rows: dict[int, NDArray[np.int64]] = {}
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                text = "".join(s.text for s in chat.segments((*prompt, Message("assistant", completion))))
            except SpecialTokenInTextError:
                continue
            rows[index] = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

        def score(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(ids)) if halt.asked() else self._score(ids, mask)

        result = np.full(len(completions), self.worst)
        result[list(rows)] = score_sequences(score, list(rows.values()), self.policy, max_tokens)
        return result

    def _score(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        pad = self.tokenizer.pad_token_id  # by which the model finds a row's last token
        logits: torch.Tensor = self.model(input_ids=ids.masked_fill(mask == 0, pad), attention_mask=mask).logits
        return logits[:, 0]
