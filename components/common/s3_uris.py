"""What is done with a bucket by a URI alone, past the verbs of a store."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.common.manifest import hash_file
from components.common.s3 import S3Store
from components.common.s3_download import download
from components.common.store import split_s3


def fingerprint(uri: str) -> str:
    """A hash of the names, sizes and entity tags of a file or folder in a bucket that is no artifact.

    Raises:
        InputError: There is nothing of that name.
    """
    root, path = split_s3(uri)
    return S3Store(root).fingerprint(path)


def copy_out(uri: str, folder: Path) -> int:
    """Fetches an artifact, or another file or folder in a bucket, into a folder, past the cache.

    Args:
        uri: What to fetch.
        folder: Where to; files of an artifact that are there and right stay.

    Returns:
        How many files it has.

    Raises:
        InputError: It is not there, or not what its manifest says.
    """
    root, path = split_s3(uri)
    store = S3Store(root)
    wanted = store.listed(path)
    for file in wanted:
        there = folder / file.path
        if file.sha256 and there.is_file() and hash_file(there) != file.sha256:
            there.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    parts = folder / ".parts"
    download(store.bucket, wanted, folder, parts, what=path)
    shutil.rmtree(parts, ignore_errors=True)
    return len(wanted)


def create_bucket(root: str) -> bool:
    """Makes the bucket of a store; returns whether it was not there before.

    Raises:
        UserError: The keys do not allow it.
    """
    return S3Store(root).bucket.create()


def names_in_folder(uri: str) -> list[str]:
    """Names of the files and folders in a folder of a bucket, sorted."""
    root, path = split_s3(uri)
    return S3Store(root).bucket.names(path)
