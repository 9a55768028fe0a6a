"""Artifacts as tests put them into a store."""

from __future__ import annotations

import shutil

from components.common.artifacts import commit
from components.common.manifest import Manifest, list_files

PREFIX = "artifacts/sft/0123456789abcdef"


def fill(store, files, kind="adapter", stage="sft"):
    folder = store.scratch()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder, Manifest(kind=kind, stage=stage, key="k", files=list_files(folder))


def make(store, files=None, prefix=PREFIX, **fields):
    folder, manifest = fill(store, files or {"a.bin": b"0123456789", "sub/b.txt": b"text", "empty": b""}, **fields)
    return commit(store, prefix, folder, manifest)


def forget(cache):
    """As another machine would begin."""
    shutil.rmtree(cache / "fetched")
