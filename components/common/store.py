"""Where artifacts live, behind the same verbs: a directory (`directory_store.py`) or a bucket (`s3.py`).

    <root>/artifacts/<stage>/<key>/     immutable, complete when manifest.json is there
    <root>/work/<stage>/<key>/<run>/    one run's checkpoints, logs, curves
    <root>/runs/<run>/                  what a run was asked for, used and made

Paths are relative to the root, with forward slashes. A location a person types, an *URI*, is the root plus such a path.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from components.common.errors import UserError

MANIFEST = "manifest.json"
DEFAULT_STORE = "rlhf-store"  # a folder of the current one


class Store(Protocol):
    """What every step needs from storage. Implementations raise `RetryableError` when the storage is out of reach.

    Attributes:
        root: The URI that people type.
        verifies: Whether `fetch` compares an artifact's files with its manifest.
    """

    root: str
    verifies: bool

    def exists(self, path: str) -> bool:
        """Whether a file is there."""

    def read(self, path: str) -> bytes:
        """A small file's content; raises `InputError` when it is not there."""

    def write(self, path: str, content: bytes) -> None:
        """Writes a small file; readers see the old content or the new, never a part."""

    def files(self, prefix: str) -> list[str]:
        """All files below a folder, sorted, relative to the root."""

    def fetch(self, prefix: str) -> Path:
        """The artifact, other folder or file at `prefix`, to be read here; a directory gives its own, without a copy.

        Raises:
            InputError: There is nothing, or a file is not what the manifest says, where the store `verifies`.
        """

    def publish(self, folder: Path, prefix: str) -> bool:
        """Moves a finished local folder to `prefix`, its manifest last.

        Returns:
            False if another writer had already completed that prefix: its artifact stands, ours is dropped.
        """

    def scratch(self) -> Path:
        """A new empty local folder from which `publish` is cheap; its maker removes it."""

    def remove(self, path: str) -> None:
        """Deletes a file; nothing to delete is fine."""

    def remove_folder(self, prefix: str) -> None:
        """Deletes a folder with all that is in it; nothing to delete is fine."""

    def folder(self, prefix: str) -> AbstractContextManager[Path]:
        """A local folder to write to. What is in it is in the store while it is open, seconds later at the latest."""

    def work(self, prefix: str, *, writes: bool) -> AbstractContextManager[Path]:
        """A run's work folder (`work/<stage>/<key>/<run>`), with the newest checkpoint of any run of the same key.

        Args:
            prefix: Its place in the store.
            writes: Whether this process is the one that writes it; the others of its machine get the same folder.
        """


def open_store(root: str) -> Store:
    """Opens the store that a root names.

    Args:
        root: A directory, absolute or relative; `file://` and an absolute path; `s3://bucket` or `s3://bucket/prefix`.

    Raises:
        UserError: The scheme is not one we can read, or the environment does not say how to reach the bucket.
    """
    if is_s3(root):
        from components.common.s3 import S3Store

        return S3Store(root)
    from components.common.directory_store import DirectoryStore

    return DirectoryStore(local_path(root))


def named_root(root: str | None = None) -> str:
    """The root that is meant: the one given, else `RLHF_STORE`, else a folder of the current one."""
    return root or os.environ.get("RLHF_STORE") or DEFAULT_STORE


def is_s3(uri: str) -> bool:
    """Whether a URI names something in a bucket."""
    return uri.startswith("s3://")


def split_s3(uri: str) -> tuple[str, str]:
    """Splits `s3://bucket/a/b` into the store that is the whole bucket, `s3://bucket`, and the path `a/b` in it."""
    bucket, _, path = uri.removeprefix("s3://").partition("/")
    return f"s3://{bucket}", path.strip("/")


def read_uri(uri: str) -> bytes:
    """Reads a small file, local or in a bucket.

    Raises:
        InputError: It is not in its bucket.
        OSError: It cannot be read here.
    """
    if is_s3(uri):
        root, path = split_s3(uri)
        return open_store(root).read(path)
    return local_path(uri).read_bytes()


def fetch_uri(uri: str) -> Path:
    """The local path of a file or folder; what is in a bucket is brought here.

    Raises:
        InputError: There is nothing of that name in the bucket.
    """
    if is_s3(uri):
        root, path = split_s3(uri)
        return open_store(root).fetch(path)
    return local_path(uri)


def local_path(uri: str) -> Path:
    """The local path that an URI names.

    Raises:
        UserError: The URI is not local.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise UserError(f"no store for {scheme}://", where=uri, hint="give a directory, file:///… or s3://…")
    try:
        return Path(rest if separator else uri).expanduser()
    except RuntimeError as error:
        raise UserError("there is no such user", where=uri) from error
