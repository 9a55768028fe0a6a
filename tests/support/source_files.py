"""Files and folders as sources of data, and what is read out of them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data.readers import Row


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def places(rows: Iterator[Row], folder: Path) -> list[tuple[str, Any]]:
    return [(row.where.removeprefix(f"{folder}/"), row.value) for row in rows]
