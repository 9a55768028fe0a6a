"""What people put into a store by hand, and take out of it.

    <root>/artifacts/upload/<key>/…     a model's files, or `<name>` and below it a file or folder of data

An upload is an artifact like any other, with a manifest that is written last; its key is the hash of its content.
Stages take it for what it was before, a plain folder or file, so that results do not depend on where data came from.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.common.artifacts import commit, find_manifest, read_manifest, verify
from components.common.errors import InputError, UserError
from components.common.inputs import UPLOAD, content_digest, plain_kind, split_uri
from components.common.manifest import Kind, Manifest, hash_file, list_files
from components.common.store import MANIFEST, Store, is_s3, local_path, open_store, split_s3

TOGETHER = "data"  # the folder of files that were put together


def put(store: Store, paths: Sequence[Path]) -> str:
    """Puts a model folder, or files and folders of data, into a store; what is there already is not sent again.

    Args:
        store: The store.
        paths: What to put there. One folder that `from_pretrained` could read is a model.

    Returns:
        The URI that `model=`, `data=` and a source's `path` take.

    Raises:
        UserError: There is nothing at a path, or two have the same name.
    """
    named, kind, below = _named(paths)
    named.pop(MANIFEST, None)  # of the artifact that the folder was: the upload gets its own
    scratch = store.scratch()
    try:
        for name, path in named.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            if is_s3(store.root):
                (scratch / name).symlink_to(path.absolute())
            else:
                shutil.copyfile(path, scratch / name)
        files = list_files(scratch)
        key = content_digest(files).removeprefix("sha256:")[:16]
        prefix = f"artifacts/{UPLOAD}/{key}"
        if not find_manifest(store, prefix):
            commit(store, prefix, scratch, Manifest(kind=kind, stage=UPLOAD, key=key, files=files))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return "/".join(filter(None, (store.root, prefix, below)))


def put_plain(uri: str, paths: Sequence[Path]) -> str:
    """Copies files and folders to a place of one's own choice, without a manifest; returns the place.

    Args:
        uri: One file becomes this file, one folder this folder; several, or one where this ends with a slash, go below.
        paths: What to copy.

    Raises:
        UserError: There is nothing at a path, or two have the same name.
    """
    files = dict(_files(paths))
    if len(paths) == 1 and not uri.endswith("/"):
        name = paths[0].resolve().name
        files = {path.removeprefix(name).lstrip("/"): file for path, file in files.items()}
    place = uri.rstrip("/")
    if is_s3(uri):
        from components.common.s3 import S3Store
        from components.common.s3_upload import upload

        root, prefix = split_s3(place)
        keys = {"/".join(filter(None, (prefix, path))): file for path, file in files.items()}
        upload(S3Store(root).bucket, keys, what=place)
        return place
    for path, file in files.items():
        target = local_path(place) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return place


def get(uri: str, folder: Path) -> int:
    """Copies an artifact, or another file or folder of a store, into a folder, and compares it with its manifest.

    Args:
        uri: What to copy.
        folder: Where to; files that are there and right stay, so that an interrupted copy goes on.

    Returns:
        How many files there are.

    Raises:
        InputError: It is not there, or not what its manifest says.
        UserError: The folder holds something else.
    """
    if is_s3(uri):
        from components.common.s3_uris import copy_out

        return copy_out(uri, folder)
    found = local_path(uri)
    root, prefix, _ = split_uri(uri)
    if prefix:
        store = open_store(root)
        verify(store.fetch(prefix), read_manifest(store, prefix))
    if not found.exists():
        raise InputError("no such file or folder", where=uri, hint="check the URI")
    sources = {found.name: found} if found.is_file() else dict(_below(found))
    for name, path in sources.items():
        target = folder / name
        if not target.is_file() or hash_file(target) != hash_file(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return len(sources)


def _named(paths: Sequence[Path]) -> tuple[dict[str, Path], Kind, str]:
    """Files by their path in the upload, its kind, and what below it is its URI."""
    if len(paths) == 1 and paths[0].is_dir():
        kind = plain_kind(paths[0])
        if kind is not None:
            return dict(_below(paths[0])), kind, ""
    files = dict(_files(paths))
    if len(paths) == 1:
        return files, "source", paths[0].resolve().name
    return {f"{TOGETHER}/{name}": path for name, path in files.items()}, "source", TOGETHER


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """All files of files and folders, by their path below a common folder."""
    seen: set[str] = set()
    for path in paths:
        name = path.resolve().name
        if name in seen:
            raise UserError(f"two are called {name}", where=str(path), hint="rename one")
        seen.add(name)
        if path.is_file():
            yield name, path
        elif path.is_dir():
            yield from ((f"{name}/{below}", file) for below, file in _below(path))
        else:
            raise UserError("no such file or folder", where=str(path), hint="check the path")


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of a folder by their path in it; hidden ones are nobody's data."""
    found = False
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            found = True
            yield "/".join(parts), path
    if not found:
        raise UserError("holds no files", where=str(folder), hint="check the path")
