"""Keeping the weights that were best on held-out data, and stopping when they get no better."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.common import distributed
from components.common.sharding import fill, whole
from components.common.training import TrainingConfig

_WEIGHTS, _FACTS = "best.safetensors", "best.json"


class BestWeights:
    """The trained weights with the lowest held-out loss so far.

    Args:
        model: Its trainable parameters are what is kept, whole, on the CPU of each process.
        config: Says how often to measure, when to stop and whether to take the best weights in the end.
        measure: Computes the held-out loss of the model as it is.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, measure: Callable[[], float]) -> None:
        self._model, self._config, self._measure = model, config, measure
        self._loss, self._step, self._waited = math.inf, 0, 0
        self._weights: dict[str, Tensor] = {}

    @property
    def exhausted(self) -> bool:
        """Whether the last `early_stopping_patience` measurements brought nothing better."""
        return 0 < self._config.early_stopping_patience <= self._waited

    def due(self, step: int) -> bool:
        """Whether to measure after a step."""
        return self._config.eval_steps > 0 and step % self._config.eval_steps == 0

    def look(self, step: int) -> float:
        """Measures, and keeps the weights if they are the best so far.

        Returns:
            The held-out loss.
        """
        loss = self._measure()
        if loss < self._loss:
            self._loss, self._step, self._waited = loss, step, 0
            if self._config.load_best_model_at_end:
                self._weights = {name: whole(p.detach()).cpu().clone() for name, p in self._trainable()}
        else:
            self._waited += 1
        return loss

    def take(self) -> int | None:
        """Puts the best weights back into the model.

        Returns:
            The step they are from, None if there was nothing to choose from.
        """
        if not self._weights:
            return None
        for name, parameter in self._trainable():
            fill(parameter, self._weights[name])
        return self._step

    def save(self, checkpoint: Path) -> None:
        """Writes what is known into a checkpoint."""
        if distributed.is_main():
            if self._weights:
                save_file(self._weights, checkpoint / _WEIGHTS)
            facts = {"loss": self._loss, "step": self._step, "waited": self._waited}
            (checkpoint / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    def load(self, checkpoint: Path) -> None:
        """Takes over what `save` wrote."""
        facts = json.loads((checkpoint / _FACTS).read_text(encoding="utf-8"))
        self._loss, self._step, self._waited = facts["loss"], facts["step"], facts["waited"]
        if (checkpoint / _WEIGHTS).exists():
            self._weights = load_file(checkpoint / _WEIGHTS)

    def _trainable(self) -> list[tuple[str, Any]]:
        return [(name, parameter) for name, parameter in self._model.named_parameters() if parameter.requires_grad]
