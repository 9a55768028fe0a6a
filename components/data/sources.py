"""Finding a source and naming its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from components.common.artifacts import canonical_json, hash_file, read_manifest
from components.common.errors import UserError
from components.common.stage import content_digest, split_uri
from components.common.store import local_path, open_store
from components.data.config import Source, expand_sources


def with_digests(part: dict[str, Any]) -> dict[str, Any]:
    """Fills in the digests of a part's sources.

    Args:
        part: The part's section of a configuration.

    Raises:
        UserError: The section is wrong or a source cannot be found.
    """
    sources = expand_sources(part.get("sources"))
    filled = [{**source, "digest": source.get("digest") or source_digest(source["path"])} for source in sources]
    return {**part, "sources": filled}


def source_digest(path: str) -> str:
    """Hash of a source's content: of an artifact's files, a local file, a folder's files, or a name on the hub.

    Raises:
        UserError: A local source does not exist.
    """
    root, prefix = split_uri(path)
    if prefix:
        artifact, _, below = prefix.removeprefix("artifacts/").partition("/")
        key, _, below = below.partition("/")
        manifest = read_manifest(open_store(root), f"artifacts/{artifact}/{key}")
        files = tuple(entry for entry in manifest.files if entry.path.startswith(below))
        if not files:
            raise UserError(f"the artifact has no files below {below!r}", where=path)
        return content_digest(files)
    local = local_path(path)
    if local.is_file():
        return f"sha256:{hash_file(local)}"
    if local.is_dir():
        names = sorted(file for file in local.rglob("*") if file.is_file())
        parts = [[file.relative_to(local).as_posix(), hash_file(file)] for file in names]
        return f"sha256:{hashlib.sha256(canonical_json(parts)).hexdigest()}"
    # A dataset on the hub: its name stands for its content until the reader has seen it.
    return f"name:{path}"


def readable(source: Source) -> str:
    """What `read_rows` is given for a source."""
    root, prefix = split_uri(source.path)
    return str(Path(open_store(root).root) / prefix) if prefix else source.path
