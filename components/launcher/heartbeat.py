"""Whether a training step makes progress, by what its rank 0 writes into the store."""

from __future__ import annotations

import json
import time

from components.common.errors import RlhfError
from components.common.store import Store

READ_SECONDS = 15.0


class Heartbeat:
    """The time since a step's heartbeat last changed, by this machine's clock: clocks of nodes differ.

    Args:
        store: The run's store.
        path: Of the heartbeat, relative to the store's root.
        every: Seconds between looks at it.
    """

    def __init__(self, store: Store, path: str, every: float = READ_SECONDS) -> None:
        self._store, self._path, self._every = store, path, every
        self._content = b""
        self._changed = self._read = time.monotonic()

    def reset(self) -> None:
        """Counts from now: the pods have just started, or do not run at all."""
        self._changed = time.monotonic()

    def silence(self) -> float:
        """Seconds without a change."""
        if time.monotonic() - self._read > self._every:
            self._read = time.monotonic()
            self._look()
        return time.monotonic() - self._changed

    @property
    def step(self) -> int | None:
        """The last step that was reported."""
        return json.loads(self._content).get("step") if self._content else None

    def _look(self) -> None:
        try:
            content = self._store.read(self._path) if self._store.exists(self._path) else b""
        except RlhfError:  # the step cannot write to a store that is gone, either
            self.reset()
            return
        if content != self._content:
            self._content = content
            self.reset()
