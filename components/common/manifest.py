"""What an artifact's `manifest.json` says: files, ancestry and how they were made, in one spelling."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.common.store import MANIFEST

SCHEMA_VERSION = 1
Kind = Literal["dataset", "source", "model", "adapter", "reward_model", "evaluation"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Frozen):
    """One file of an artifact: path relative to its folder, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


class Parent(_Frozen):
    """An input of the stage that made an artifact; the URI is relative to the store root when it lies in that store."""

    uri: str
    digest: str


class Manifest(_Frozen):
    """What `manifest.json` holds. It has no times and no host names: equal work gives an equal digest."""

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    stage: str
    key: str
    files: tuple[FileEntry, ...]
    parents: dict[str, Parent] = {}
    config: dict[str, Any] = {}
    seed: int = 0
    metrics: dict[str, Any] = {}
    versions: dict[str, str] = {}
    tokenizer: dict[str, str] = {}

    def canonical(self) -> bytes:
        """The bytes that are hashed and stored: sorted keys, no spaces, UTF-8."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """`sha256:` and the hash of `canonical()`."""
        return f"sha256:{hashlib.sha256(self.canonical()).hexdigest()}"


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling per value.

    Raises:
        ValueError: The value holds NaN or infinity, which JSON cannot say.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Size and hash of every file below a folder, sorted by path, without a manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = ((path.relative_to(folder).as_posix(), path) for path in paths)
    return tuple(
        FileEntry(path=name, size=path.stat().st_size, sha256=hash_file(path))
        for name, path in entries
        if name != MANIFEST
    )
