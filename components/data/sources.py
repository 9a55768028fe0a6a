"""Finding a source and naming its content."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import Any

from components.common.artifacts import read_manifest
from components.common.errors import UserError
from components.common.inputs import UPLOAD, content_digest, split_uri
from components.common.manifest import FileEntry, canonical_json, hash_file
from components.common.store import fetch_uri, is_s3, local_path, open_store
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

    What else is in a bucket is known by its listing: names, sizes and entity tags.

    Raises:
        UserError: A local source does not exist.
        InputError: There is nothing of that name in a bucket.
    """
    root, prefix, below = split_uri(path)
    if prefix:
        return _artifact_digest(path, root, prefix, below)
    if is_s3(path):
        from components.common.s3_uris import fingerprint

        return f"s3:{fingerprint(path)}"
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


def _artifact_digest(path: str, root: str, prefix: str, below: str) -> str:
    manifest = read_manifest(open_store(root), prefix)
    files = tuple(entry for entry in manifest.files if not below or f"{entry.path}/".startswith(f"{below}/"))
    if not files:
        raise UserError(f"the artifact has no files below {below!r}", where=path)
    return _uploaded_digest(files, below) if manifest.stage == UPLOAD else content_digest(files)


def _uploaded_digest(files: tuple[FileEntry, ...], below: str) -> str:
    """The digest that file or folder had before it was put into the store."""
    if files[0].path == below:
        return f"sha256:{files[0].sha256}{''.join(PurePath(below).suffixes)}"
    inside = (entry.model_copy(update={"path": entry.path.removeprefix(f"{below}/")}) for entry in files)
    return content_digest(tuple(inside))


def readable(source: Source) -> str:
    """What `read_rows` is given for a source; what is in a bucket is fetched."""
    root, prefix, below = split_uri(source.path)
    if prefix:
        return str(open_store(root).fetch(prefix) / below)
    return str(fetch_uri(source.path)) if is_s3(source.path) else source.path


def names_below(uri: str) -> list[str]:
    """Names of the files and folders in a folder, sorted: local, in an artifact, or in a bucket. None if it is none."""
    root, prefix, below = split_uri(uri)
    if prefix:
        inside = f"{below}/" if below else ""
        paths = [entry.path for entry in read_manifest(open_store(root), prefix).files]
        return sorted({path.removeprefix(inside).partition("/")[0] for path in paths if path.startswith(inside)})
    if is_s3(uri):
        from components.common.s3_uris import names_in_folder

        return names_in_folder(uri)
    folder = local_path(uri)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
