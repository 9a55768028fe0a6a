"""A stage's curves, and what it wrote on the way: JSON lines for us, TensorBoard events for people.

The JSON lines hold no times, so that a resumed run's files equal an undisturbed run's.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from components.common import distributed
from components.common.errors import UserError

FILE = "metrics.jsonl"
TEXTS = "texts.jsonl"


class Curves:
    """Writes values by step, on rank 0 only.

    Args:
        work: Folder for metrics.jsonl, texts.jsonl and tensorboard/.
        stage: Prefix of the tags in TensorBoard.
        report_to: Names of trackers beside TensorBoard, as accelerate spells them.
        go_on_from: Checkpoint that holds the curves up to its step (see `save`); those are written again, so that both
            files are whole wherever earlier attempts ended.
    """

    def __init__(self, work: Path, stage: str, report_to: Sequence[str] = (), go_on_from: Path | None = None) -> None:
        self._stage, self._work = stage, work
        self._trackers: list[Any] = []
        self._writer: Any = None
        if distributed.is_main():
            from torch.utils.tensorboard import SummaryWriter

            past = {name: _lines(go_on_from / name) if go_on_from else [] for name in (FILE, TEXTS)}
            work.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(work / "tensorboard", ignore_errors=True)
            for name in (FILE, TEXTS):
                (work / name).unlink(missing_ok=True)
            self._writer = SummaryWriter(str(work / "tensorboard"))
            for values in past[FILE]:
                self.write(values.pop("step"), values)
            for text in past[TEXTS]:
                self.write_text(text.pop("step"), text)
            self._trackers = _open_trackers(report_to, f"{stage}-{work.name}", work, stage)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        if self._writer is None:
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._append(FILE, {"step": step, **finite})
        for name, value in finite.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)
        for tracker in self._trackers:
            tracker.log(finite, step=step)

    def write_text(self, step: int, fields: Mapping[str, Any]) -> None:
        """Keeps something that was written at a step, such as a completion with its score."""
        if self._writer is not None:
            self._append(TEXTS, {"step": step, **fields})
            shown = "  \n".join(f"**{name}** {value}" for name, value in fields.items())
            self._writer.add_text(f"{self._stage}/texts", shown, step)

    def save(self, checkpoint: Path) -> None:
        """Puts what there is so far into a checkpoint."""
        if self._writer is not None:
            copy_curves(self._work, checkpoint)

    def _append(self, name: str, fields: Mapping[str, Any]) -> None:
        with (self._work / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields, sort_keys=True) + "\n")

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        for tracker in self._trackers:
            tracker.finish()


def copy_curves(work: Path, folder: Path) -> None:
    """Copies metrics.jsonl, and texts.jsonl if there is one, into a checkpoint or an artifact."""
    for name in (FILE, TEXTS):
        if (work / name).exists():
            shutil.copyfile(work / name, folder / name)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


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
