"""A key-value cache with room for the tokens to come.

transformers' own cache grows by concatenation: every token copies the keys and values of all tokens before it, which at
a few hundred tokens costs as much as computing the new ones. Here a token copies itself.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, as views of buffers that are longer.

    Args:
        room: Tokens that will follow those of the first call.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds tokens; both arguments of shape (rows, heads, new tokens, size). Returns all keys and all values."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (_longer(key_states, self._room), _longer(value_states, self._room))
        keys, values = self._buffers
        keys[:, :, begin:end] = key_states
        values[:, :, begin:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some of the rows, given in ascending order."""
        if self._buffers is None:
            return
        end = self.get_seq_length()
        for buffer in self._buffers:
            buffer[: len(indices), :, :end] = buffer[indices, :, :end]
        keys, values = (buffer[: len(indices)] for buffer in self._buffers)
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]


def roomy_cache(config: Any, room: int) -> Any:
    """The cache that a model wants, its plain layers with room.

    Args:
        config: The model's configuration; layers with a window or without attention keep transformers' own cache.
        room: Tokens that will follow the prompt.
    """
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _longer(states: torch.Tensor, room: int) -> torch.Tensor:
    rows, heads, tokens, size = states.shape
    return states.new_empty(rows, heads, tokens + room, size)
