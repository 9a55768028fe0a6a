"""Artifacts: immutable folders with a manifest that says what is in them, what they were made from and how.

The manifest is written last and so is the commit. Its digest names the artifact's content and ancestry; a stage's key
is made from its parents' digests, so that the same key means the same result in any run and any store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.common.errors import InputError
from components.common.manifest import SCHEMA_VERSION, Kind, Manifest, canonical_json, hash_file
from components.common.store import MANIFEST, Store

_PACKAGES = ("accelerate", "datasets", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers", "trl")


@dataclass(frozen=True)
class Artifact:
    """An input.

    Attributes:
        uri: Where it came from.
        place: Its local folder, or what brings it here; called once, when `folder` is first looked at.
        digest: Of its manifest, or of a plain folder's content.
        kind: What it is.
        manifest: None if it is a plain folder.
        verified: Whether `place` has compared its files with the manifest.
    """

    uri: str
    place: Path | Callable[[], Path] = field(compare=False)
    digest: str
    kind: Kind
    manifest: Manifest | None = None
    verified: bool = field(default=False, compare=False)

    @cached_property
    def folder(self) -> Path:
        """Its local folder."""
        return self.place if isinstance(self.place, Path) else self.place()

    def verify(self) -> None:
        """Compares its files with its manifest.

        Raises:
            InputError: Naming the first file that differs.
        """
        folder = self.folder
        if self.manifest and not self.verified:
            verify(folder, self.manifest)

    def parent_digest(self, name: str) -> str | None:
        """Digest of the parent called `name`, or None when it is not known."""
        parent = self.manifest.parents.get(name) if self.manifest else None
        return parent.digest if parent else None


def check_stands_on(adapter: Artifact, base: Artifact) -> None:
    """Compares the model that an adapter was trained on, if its manifest names one, with a base.

    Raises:
        InputError: They differ.
    """
    parent = adapter.manifest.parents.get("model") if adapter.manifest else None
    if parent and parent.digest != base.digest:
        raise InputError(
            f"was trained on {parent.uri} ({parent.digest}), not on {base.uri} ({base.digest})",
            where=adapter.uri,
            hint="give the model it was trained on as base",
        )


def stage_key(stage: str, result_version: int, config: Mapping[str, Any], parents: Mapping[str, str], seed: int) -> str:
    """The name of a stage's result: 16 hex digits of the hash of everything that can change it.

    Args:
        stage: The stage's name.
        result_version: Raised by hand when the stage's code changes results.
        config: `Config.for_key()` of the stage.
        parents: Digest of each input by name.
        seed: The run's seed.
    """
    identity = {
        "stage": stage,
        "result_version": result_version,
        "config": dict(config),
        "parents": dict(parents),
        "seed": seed,
    }
    return hashlib.sha256(canonical_json(identity)).hexdigest()[:16]


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide numbers."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def commit(store: Store, prefix: str, folder: Path, manifest: Manifest) -> Manifest:
    """Publishes a finished folder as the artifact at `prefix`.

    Returns:
        The manifest that stands: ours, or that of another writer who was first.
    """
    (folder / MANIFEST).unlink(missing_ok=True)  # it may be a link to somebody's own
    (folder / MANIFEST).write_bytes(manifest.canonical())
    if store.publish(folder, prefix):
        return manifest
    return read_manifest(store, prefix)


def read_manifest(store: Store, prefix: str) -> Manifest:
    """Reads an artifact's manifest.

    Raises:
        InputError: There is none, or it is not one that this version can read.
    """
    where = f"{store.root}/{prefix}"
    path = f"{prefix}/{MANIFEST}" if prefix else MANIFEST
    if not store.exists(path):
        raise InputError("not a complete artifact: it has no manifest.json", where=where, hint="run its stage again")
    try:
        manifest = Manifest.model_validate_json(store.read(path))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise InputError(
            f"manifest.json cannot be read: {field} {problem['msg']}", where=where, hint="run its stage again"
        ) from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise InputError(f"manifest schema {manifest.schema_version}, this version reads {SCHEMA_VERSION}", where=where)
    return manifest


def find_manifest(store: Store, prefix: str) -> Manifest | None:
    """The manifest at `prefix` if an artifact is complete there."""
    return read_manifest(store, prefix) if store.exists(f"{prefix}/{MANIFEST}") else None


def verify(folder: Path, manifest: Manifest) -> None:
    """Compares every file with the manifest.

    Raises:
        InputError: Naming the first file that is missing, altered or not listed.
    """
    listed = {entry.path for entry in manifest.files}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and name not in listed:
            raise InputError(
                "is not listed in manifest.json", where=str(path), hint="remove it: artifacts never change"
            )
    for entry in manifest.files:
        path = folder / entry.path
        if not path.is_file():
            raise InputError("is listed in manifest.json but missing", where=str(path), hint="run its stage again")
        size = path.stat().st_size
        if size != entry.size:
            raise InputError(
                f"has {size} bytes, manifest.json says {entry.size}", where=str(path), hint="run its stage again"
            )
        if hash_file(path) != entry.sha256:
            raise InputError(
                "was altered: its sha256 is not the one in manifest.json", where=str(path), hint="run its stage again"
            )
