"""Stages that are stopped on the way: started as users start them, ended by a signal, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.support.commands import ROOT, environment


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended.

    Attributes:
        code: Its exit code.
        output: What it printed.
        seconds: From the signal to its end; 0 if it got none.
    """

    code: int
    output: str
    seconds: float = 0.0


@dataclass(frozen=True)
class StageCommand:
    """`python -m components.<stage>` with its arguments but the place of its result."""

    stage: str
    arguments: list[str]

    def run(
        self,
        store: Path,
        end_when: Callable[[Path], bool] | None = None,
        number: signal.Signals | None = None,
        whom: Callable[[int], int] = int,
    ) -> Attempt:
        """Runs it, and sends it a signal as soon as a condition on its store holds.

        Args:
            store: Where the result goes.
            end_when: Looked at every few milliseconds.
            number: The signal.
            whom: From the command's process to the one that gets the signal; the same by default.
        """
        command = [sys.executable, "-m", f"components.{self.stage}", *self.arguments, "--output", str(store)]
        log = store.parent / f"{store.name}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(RLHF_RUN_ID="r"), stdout=file, stderr=subprocess.STDOUT
            )
            deadline, sent = time.monotonic() + 120, 0.0
            while process.poll() is None and time.monotonic() < deadline:
                if end_when and number and end_when(store):
                    os.kill(whom(process.pid), number)
                    sent = time.monotonic()
                    break
                time.sleep(0.002)
            process.wait(timeout=60)
            seconds = time.monotonic() - sent if sent else 0.0
        return Attempt(process.returncode, log.read_text(), seconds)


def after_step(step: int) -> Callable[[Path], bool]:
    """True once a step is in the curves."""

    def reached(store: Path) -> bool:
        return any(path.read_bytes().count(b"\n") >= step for path in store.glob("work/*/*/*/metrics.jsonl"))

    return reached


def inside_checkpoint(store: Path) -> bool:
    """True while a checkpoint is being written."""
    return any(path.is_file() for path in store.glob("work/*/*/*/checkpoints/.writing*/**/*"))


def half_written(store: Path) -> bool:
    """Whether a process has left a checkpoint that it was writing."""
    return inside_checkpoint(store)


def trained_state(store: Path) -> dict[str, Any]:
    """All tensors of the last checkpoint, and the bytes of adapter and curves in the artifact."""
    (artifact,) = (path.parent for path in store.glob("artifacts/*/*/manifest.json"))
    *_, last = sorted(store.glob("work/*/*/*/checkpoints/step-*"), key=lambda path: path.name)
    files = {path.name: path.read_bytes() for path in artifact.iterdir() if path.suffix in (".safetensors", ".jsonl")}
    state = {path.name: torch.load(path, weights_only=True) for path in last.glob("*.pt") if "rng" not in path.name}
    return {"step": last.name, **files, **state}


def same(one: Any, other: Any) -> bool:
    """Whether nested values are equal, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
