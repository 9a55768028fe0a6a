"""Finding a source and naming its content."""

from __future__ import annotations

import hashlib
from typing import Any

from components.common.artifacts import canonical_json, hash_file, read_manifest
from components.common.errors import UserError
from components.common.stage import content_digest, split_uri
from components.common.store import local_path, open_store
from components.data.config import Source, expand_sources
from components.data.hub import dataset_revision


def with_digests(part: dict[str, Any]) -> dict[str, Any]:
    """Fills in the digests of a part's sources.

    Args:
        part: The part's section of a configuration.

    Raises:
        UserError: A source cannot be found, or is no longer what it was when the configuration was resolved.
    """
    filled = []
    for source in expand_sources(part.get("sources")):
        digest = source_digest(source["path"])
        if source.get("digest") not in (None, "", digest):
            raise UserError(
                "has changed since the configuration was resolved", where=source["path"], hint="start a new run"
            )
        filled.append({**source, "digest": digest})
    return {**part, "sources": filled}


def source_digest(path: str) -> str:
    """Hash of a source's content: of an artifact's files, a local file, a folder's files, or a name on the hub.

    Raises:
        UserError: A local source does not exist.
    """
    root, prefix, below = split_uri(path)
    if prefix:
        manifest = read_manifest(open_store(root), prefix)
        files = tuple(entry for entry in manifest.files if entry.path.startswith(below))
        if not files:
            raise UserError(f"the artifact has no files below {below!r}", where=path)
        return content_digest(files)
    if path.startswith("hf://"):
        return f"hub:{path}@{dataset_revision(path)}"
    local = local_path(path)
    if local.is_file():  # its suffix says how it is read
        return f"sha256:{hash_file(local)}{''.join(local.suffixes)}"
    if local.is_dir():
        names = sorted(file for file in local.rglob("*") if file.is_file())
        parts = [[file.relative_to(local).as_posix(), hash_file(file)] for file in names]
        return f"sha256:{hashlib.sha256(canonical_json(parts)).hexdigest()}"
    return f"hub:{path}@{dataset_revision(path)}"


def readable(source: Source) -> str:
    """What `read_rows` is given for a source."""
    root, prefix, below = split_uri(source.path)
    return str(open_store(root).fetch(prefix) / below) if prefix else source.path
