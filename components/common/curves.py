"""A stage's curves: metrics.jsonl for us, TensorBoard events for people.

metrics.jsonl holds no times, so that a resumed run's file equals an undisturbed run's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from components.common import distributed

FILE = "metrics.jsonl"


class Curves:
    """Writes values by step, on rank 0 only.

    Args:
        work: Folder for metrics.jsonl and tensorboard/.
        stage: Prefix of the tags in TensorBoard.
    """

    def __init__(self, work: Path, stage: str) -> None:
        self._stage = stage
        self._file: TextIO | None = None
        self._writer: Any = None
        if distributed.is_main():
            from torch.utils.tensorboard import SummaryWriter

            work.mkdir(parents=True, exist_ok=True)
            self._file = (work / FILE).open("w", encoding="utf-8")
            self._writer = SummaryWriter(str(work / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        if self._file is None:
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **finite}, sort_keys=True) + "\n")
        self._file.flush()
        for name, value in finite.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._writer.close()
