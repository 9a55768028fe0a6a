"""Objects → files: in parallel, large ones in ranges, hashed on the way; what is here already is not fetched again.

A file gets its name when its content is known to be right. Until then it is below another folder, with a journal of the
ranges that are in it, from which the next attempt goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from components.common.errors import InputError
from components.common.s3_bucket import PIECE, Bucket
from components.common.s3_transfer import Meter, finish, workers

RANGE = 16 << 20
AHEAD = 16  # ranges of a file that may be fetched before the first of them is hashed
LARGE_AT_ONCE = 3


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: its object's key, its path in the folder, its size in bytes and its hash, empty if not known."""

    key: str
    path: str
    size: int
    sha256: str


def download(bucket: Bucket, files: Sequence[Wanted], folder: Path, aside: Path, *, what: str) -> None:
    """Fetches files.

    Args:
        bucket: Where from.
        files: What to fetch; a file that `folder` has already is taken as it is.
        folder: Where to.
        aside: Folder for unfinished files, on the same file system.
        what: Name of the whole, for progress lines.

    Raises:
        InputError: An object is missing or is not what it should be; it is named.
        RetryableError: The store stays away.
    """
    missing = [wanted for wanted in files if _size(folder / wanted.path) != wanted.size]
    for wanted in missing:
        if Path(wanted.path).is_absolute() or ".." in Path(wanted.path).parts:
            raise InputError(f"would be written outside its folder: {wanted.path}", where=bucket.uri(wanted.key))
    meter = Meter(f"↓ {what}", sum(wanted.size for wanted in files))
    meter.skip(sum(wanted.size for wanted in files) - sum(wanted.size for wanted in missing))
    for parent in {(base / wanted.path).parent for wanted in missing for base in (folder, aside)}:
        parent.mkdir(parents=True, exist_ok=True)
    with workers(bucket) as (pool, stoppable), workers(bucket, LARGE_AT_ONCE) as (large_pool, _):
        small = [
            pool.submit(_fetch_whole, stoppable, wanted, folder, aside, meter)
            for wanted in missing
            if wanted.size <= RANGE
        ]
        large = [
            large_pool.submit(_Large(stoppable, wanted, aside, meter).fetch, pool, folder)
            for wanted in missing
            if wanted.size > RANGE
        ]
        try:
            finish([*small, *large], meter, bucket)
        except BaseException:
            stoppable.stop.set()  # before we wait for those who wait for these
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_whole(bucket: Bucket, wanted: Wanted, folder: Path, aside: Path, meter: Meter) -> None:
    content = bucket.get(wanted.key)
    if content is None:
        raise _missing(bucket, wanted)
    _check(bucket, wanted, len(content), hashlib.sha256(content).hexdigest())
    (aside / wanted.path).write_bytes(content)
    os.replace(aside / wanted.path, folder / wanted.path)
    meter.add(len(content))


class _Large:
    """A large file on its way.

    Args:
        bucket: Where from.
        wanted: What.
        aside: Folder for unfinished files.
        meter: Counts.
    """

    def __init__(self, bucket: Bucket, wanted: Wanted, aside: Path, meter: Meter) -> None:
        self._bucket, self._wanted, self._meter = bucket, wanted, meter
        self._file, self._journal = aside / wanted.path, aside / f"{wanted.path}.ranges"
        self._count = -(-wanted.size // RANGE)
        self._lock = threading.Lock()
        self._done: set[int] = set()

    def fetch(self, pool: ThreadPoolExecutor, folder: Path) -> None:
        """Fetches its ranges with the threads of a pool, and hashes them in order."""
        if self._bucket.head(self._wanted.key) is None:
            raise _missing(self._bucket, self._wanted)
        self._done = self._read_journal()
        resumed = bool(self._done)
        try:
            self._fetch(pool, folder)
        except InputError:
            self._journal.unlink(missing_ok=True)
            if not resumed:
                raise
            self._done = set()  # what was here may be what is wrong: a machine that lost power leaves holes
            self._fetch(pool, folder)

    def _fetch(self, pool: ThreadPoolExecutor, folder: Path) -> None:
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.truncate(self._wanted.size)
            target = file.fileno()
            pending = {number: pool.submit(self._range, target, number) for number in range(min(AHEAD, self._count))}
            digest = hashlib.sha256()
            try:
                for number in range(self._count):
                    pending.pop(number).result()
                    ahead = number + AHEAD
                    if ahead < self._count:
                        pending[ahead] = pool.submit(self._range, target, ahead)
                    self._hash(digest, target, number)
            finally:  # none may write when the file is closed: its number may then be another file's
                for future in pending.values():
                    future.cancel()
                wait(pending.values())
        _check(self._bucket, self._wanted, self._wanted.size, digest.hexdigest())
        os.replace(self._file, folder / self._wanted.path)
        self._journal.unlink(missing_ok=True)

    def _range(self, target: int, number: int) -> None:
        start = number * RANGE
        length = min(RANGE, self._wanted.size - start)
        if number in self._done:
            self._meter.skip(length)
            return
        at = start
        for piece in self._bucket.read_range(self._wanted.key, start, length):
            os.pwrite(target, piece, at)
            at += len(piece)
            self._meter.add(len(piece))
        with self._lock, self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{number}\n")

    def _hash(self, digest: hashlib._Hash, target: int, number: int) -> None:
        start = number * RANGE
        end = min(start + RANGE, self._wanted.size)
        for at in range(start, end, PIECE):
            digest.update(os.pread(target, min(PIECE, end - at), at))

    def _read_journal(self) -> set[int]:
        if not self._journal.exists() or not self._file.exists() or self._file.stat().st_size != self._wanted.size:
            self._journal.unlink(missing_ok=True)
            return set()
        return {json.loads(line) for line in self._journal.read_text(encoding="utf-8").splitlines()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _check(bucket: Bucket, wanted: Wanted, size: int, sha256: str) -> None:
    where = bucket.uri(wanted.key)
    if size != wanted.size:
        what = f"has {size} bytes, {wanted.size} are expected"
        raise InputError(what, where=where, hint="run its stage again, or put it into the store again")
    if wanted.sha256 and sha256 != wanted.sha256:
        raise InputError(
            "was altered: its sha256 is not the one in manifest.json",
            where=where,
            hint="remove the artifact and run its stage again",
        )


def _missing(bucket: Bucket, wanted: Wanted) -> InputError:
    return InputError(
        "is listed in manifest.json but missing",
        where=bucket.uri(wanted.key),
        hint="remove the artifact and run its stage again",
    )
