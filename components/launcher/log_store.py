"""A pod's log in the store, while it grows: an object cannot be appended to, so it is kept in parts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from components.common.store import Store
from components.launcher.log_lines import Line

PART_BYTES = 256 * 1024


class StoredLog:
    """Writes one pod's lines below a folder of the store, and goes on where an earlier launcher ended.

    Args:
        store: The store.
        folder: Prefix of the logs' folder.
        name: The pod's name and the beginning of its uid.
    """

    def __init__(self, store: Store, folder: str, name: str) -> None:
        self._store, self._folder, self._name = store, folder, name
        self._lock = threading.Lock()
        self._part, self._text, self._dirty = 0, "", False

    def resume(self) -> list[Line]:
        """The last lines that an earlier launcher stored; new ones are added after them."""
        parts = [path for path in self._store.files(self._folder) if path.startswith(f"{self._folder}/{self._name}.")]
        if not parts:
            return []
        self._part = int(parts[-1].split(".")[-2])
        before = self._store.read(parts[-2]).decode() if len(parts) > 1 else ""
        self._text = self._store.read(parts[-1]).decode()
        return [Line.parse(line) for line in (before + self._text).splitlines()]

    def append(self, line: Line) -> None:
        """Adds a line; `flush` stores it."""
        with self._lock:
            self._text += f"{line}\n"
            self._dirty = True

    def flush(self) -> None:
        """Stores what was added.

        Raises:
            RlhfError: The store cannot be written; nothing is lost, the next flush tries again.
        """
        with self._lock:
            text, part, dirty = self._text, self._part, self._dirty
        if not dirty:
            return
        cut = text.rfind("\n", 0, PART_BYTES) + 1 if len(text) > PART_BYTES else 0
        self._store.write(f"{self._folder}/{self._name}.{part:05d}.log", (text[:cut] if cut else text).encode())
        with self._lock:
            if cut:
                self._text, self._part = self._text[cut:], part + 1
            else:
                self._dirty = self._text != text
        if cut:
            self.flush()


def stored_logs(store: Store, folder: str) -> dict[str, list[str]]:
    """Parts of each pod's log below a folder, by the pod's name and the beginning of its uid."""
    found: dict[str, list[str]] = {}
    for path in store.files(folder):
        name = path.rsplit("/", 1)[-1]
        if name.endswith(".log") and name.count(".") >= 2:
            found.setdefault(name.rsplit(".", 2)[0], []).append(path)
    return found


def read_log(store: Store, parts: list[str]) -> Iterator[Line]:
    """Lines of one pod's log."""
    for part in parts:
        for line in store.read(part).decode().splitlines():
            yield Line.parse(line)
