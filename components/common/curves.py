"""A stage's curves: metrics.jsonl for us, TensorBoard events for people.

metrics.jsonl holds no times, so that a resumed run's file equals an undisturbed run's.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from components.common import distributed
from components.common.errors import UserError

FILE = "metrics.jsonl"


class Curves:
    """Writes values by step, on rank 0 only.

    Args:
        work: Folder for metrics.jsonl and tensorboard/.
        stage: Prefix of the tags in TensorBoard.
        report_to: Names of trackers beside TensorBoard, as accelerate spells them.
        go_on_from: Checkpoint that holds the curves up to its step (see `save`); those are written again, so that both
            files are whole wherever earlier attempts ended.
    """

    def __init__(self, work: Path, stage: str, report_to: Sequence[str] = (), go_on_from: Path | None = None) -> None:
        self._stage, self._path = stage, work / FILE
        self._trackers: list[Any] = []
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
            self._trackers = _open_trackers(report_to, f"{stage}-{work.name}", work, stage)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        if self._file is None:
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **finite}, sort_keys=True) + "\n")
        self._file.flush()
        for name, value in finite.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)
        for tracker in self._trackers:
            tracker.log(finite, step=step)

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
        for tracker in self._trackers:
            tracker.finish()


def _open_trackers(names: Sequence[str], run: str, folder: Path, stage: str) -> list[Any]:
    """Starts accelerate's trackers.

    Raises:
        UserError: There is no tracker of that name, or its package is not installed.
    """
    if not names:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    trackers = []
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise UserError(f"no tracker {name}", where=f"{stage}.report_to", hint=f"there are {known}")
        if name not in [str(getattr(available, "value", available)) for available in get_available_trackers()]:
            raise UserError(f"{name} is not installed", where=f"{stage}.report_to", hint=f"pip install {name}")
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(run, logging_dir=folder) if kind.requires_logging_directory else kind(run)
        tracker.start()
        trackers.append(tracker)
    return trackers
