"""A stage's curves: metrics.jsonl for us, TensorBoard events for people.

metrics.jsonl holds no times, so that a resumed run's file equals an undisturbed run's.
"""

from __future__ import annotations

import json
import math
import shutil
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
        go_on_from: Checkpoint that holds the curves up to its step (see `save`); those are written again, so that both
            files are whole wherever earlier attempts ended.
    """

    def __init__(self, work: Path, stage: str, go_on_from: Path | None = None) -> None:
        self._stage, self._path = stage, work / FILE
        self._file: TextIO | None = None
        self._writer: Any = None
        if distributed.is_main():
            from torch.utils.tensorboard import SummaryWriter

            past = (go_on_from / FILE).read_text(encoding="utf-8").splitlines() if go_on_from else []
            work.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(work / "tensorboard", ignore_errors=True)
            self._file = self._path.open("w", encoding="utf-8")
            self._writer = SummaryWriter(str(work / "tensorboard"))
            for values in map(json.loads, past):
                self.write(values.pop("step"), values)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        if self._file is None:
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **finite}, sort_keys=True) + "\n")
        self._file.flush()
        for name, value in finite.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)

    def save(self, checkpoint: Path) -> None:
        """Puts a copy of the curves so far into a checkpoint."""
        if self._file is not None:
            shutil.copyfile(self._path, checkpoint / FILE)

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._writer.close()
