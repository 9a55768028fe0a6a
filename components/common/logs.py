"""What a stage says while it runs: plain lines for `kubectl logs`, a bar on a terminal, JSON on request.

sft step 40/200 loss 1.92 lr 1.0e-04 2310 tok/s 9.1 GiB eta 3m12s
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from components.common import heartbeat

LOG = "log.txt"
MARK = "\x1e"  # `rlhf run` sets RLHF_MARK_LINES and so tells our lines from those of the libraries around us

_log: Path | None = None


def keep_log(path: Path | None) -> None:
    """From now on what is said is also added to a file, with the time; None ends that."""
    global _log
    _log = path


def note(stage: str, message: str) -> None:
    """Adds a line to the kept log, and prints nothing."""
    if _log is not None:
        with _log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {stage} {message}\n")


def say(stage: str, message: str, **fields: object) -> None:
    """Prints one line on rank 0.

    Args:
        stage: Name of the stage, first on the line.
        message: The rest of it.
        fields: Added as they are in JSON mode (`RLHF_LOG_FORMAT=json`), not shown otherwise.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    heartbeat.beat()
    note(stage, message)
    if os.environ.get("RLHF_LOG_FORMAT") == "json":
        line = json.dumps({"ts": round(time.time(), 3), "stage": stage, "message": message, **fields})
    else:
        line = f"{stage} {message}"
    print(f"{MARK if os.environ.get('RLHF_MARK_LINES') else ''}{line}", flush=True)


class Progress:
    """Progress of a loop, a line each `every` steps, with rate, memory and time left.

    Args:
        stage: Name of the stage.
        total: Number of steps.
        start: Steps done before this process began.
        every: Steps between lines.
    """

    def __init__(self, stage: str, total: int, start: int = 0, every: int = 10) -> None:
        self._stage, self._total, self._start, self._every = stage, total, start, max(1, every)
        self._began = time.monotonic()
        self._bar = sys.stdout.isatty() and os.environ.get("RLHF_LOG_FORMAT") != "json"
        self._since: list[Mapping[str, float]] = []

    def step(self, step: int, values: Mapping[str, float], tokens: int = 0) -> None:
        """Reports that `step` is done.

        Args:
            step: Steps done so far, counted from 1.
            values: What to show, in this order: means over the steps since the last line, but the last learning rate.
            tokens: Tokens that this process handled since it began.
        """
        heartbeat.beat(step)
        self._since.append(values)
        last = step == self._total
        if not self._bar and step % self._every and not last:
            return
        means = {name: sum(seen[name] for seen in self._since) / len(self._since) for name in values}
        shown = {**means, **{name: value for name, value in values.items() if name == "lr"}}
        line = f"step {step}/{self._total} {' '.join(f'{name} {_short(name, shown[name])}' for name in values)}"
        elapsed = max(time.monotonic() - self._began, 1e-9)
        rate = f" {tokens / elapsed:.0f} tok/s" if tokens else ""
        left = _duration(elapsed / max(step - self._start, 1) * (self._total - step))
        line += f"{rate} {memory_gib():.1f} GiB eta {left}"
        if self._bar:
            print(f"\r\x1b[K{self._stage} {line}", end="\n" if last else "", flush=True)
        else:
            say(self._stage, line, step=step, total=self._total, **shown)
        if not step % self._every or last:
            self._since = []


def memory_gib() -> float:
    """Peak memory in GiB: of the GPU where there is one, else of this process."""
    torch = sys.modules.get("torch")  # never the reason for importing it
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _short(name: str, value: float) -> str:
    if name == "lr":
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
