"""Signs of life: a small file that says when this process last got on, for whoever has to tell work from a hang.

Only the main thread writes it, as part of what it does: a thread that did nothing else would go on while training
hangs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "heartbeat.json"
EVERY = 5.0  # seconds between two writes

_path: Path | None = None
_written = 0.0
_step = 0


@contextmanager
def beating(work: Path) -> Iterator[None]:
    """Signs of life go into a work folder while the block runs; the first one does at once."""
    start(work)
    try:
        yield
    finally:
        stop()


def start(work: Path) -> None:
    """From now on signs of life go into a work folder; the first one does at once."""
    global _path, _written, _step
    work.mkdir(parents=True, exist_ok=True)
    _path, _written, _step = work / FILE, 0.0, 0
    beat()


def stop() -> None:
    """Ends them: what this process does next is none of the stage's work."""
    global _path
    _path = None


def beat(step: int | None = None) -> None:
    """Says that work got on. Cheap: may be called for every batch.

    Args:
        step: Steps done, if that is known; the last known number stays.
    """
    global _written, _step
    if _path is None or threading.current_thread() is not threading.main_thread():
        return
    _step = _step if step is None else step
    now = time.monotonic()
    if now - _written < EVERY and _written:
        return
    _written = now
    aside = _path.with_name(f".{FILE}")
    aside.write_text(json.dumps({"time": round(time.time(), 3), "step": _step}), encoding="utf-8")
    os.replace(aside, _path)
