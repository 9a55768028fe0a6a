"""Files → objects: in parallel, large ones in parts; what is there already is not sent again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.common.errors import RetryableError, UserError
from components.common.s3_bucket import Bucket, Upload
from components.common.s3_transfer import Meter, finish, workers

PART = 8 << 20
MAX_PARTS = 10_000  # of an object, by the S3 API


def upload(bucket: Bucket, files: Mapping[str, Path], *, what: str, present: Mapping[str, int] | None = None) -> None:
    """Uploads files.

    Args:
        bucket: Where to.
        files: Path of each file by the key of its object.
        what: Name of the whole, for progress lines.
        present: Sizes of objects that are there and that a file of that size need not replace.

    Raises:
        UserError: The store is full, or does not let us.
        RetryableError: The store stays away.
    """
    sizes = {key: path.stat().st_size for key, path in files.items()}
    meter = Meter(f"↑ {what}", sum(sizes.values()))
    wanted = [key for key in files if (present or {}).get(key) != sizes[key]]
    meter.skip(sum(sizes.values()) - sum(sizes[key] for key in wanted))
    with workers(bucket) as (pool, stoppable):
        whole = [key for key in wanted if sizes[key] <= 2 * PART]
        small = [pool.submit(_send_whole, stoppable, key, files[key], meter) for key in whole]
        large = [_Parts(stoppable, key, files[key], sizes[key], meter) for key in wanted if sizes[key] > 2 * PART]
        try:
            sent = [[pool.submit(parts.send, number) for number in parts.numbers] for parts in large]
            finish(small, meter, bucket)
            for parts, futures in zip(large, sent, strict=True):
                finish(futures, meter, bucket)
                parts.end([future.result() for future in futures])
        except UserError:  # the store is full, or will not have them: what it has of them is of no use
            pool.shutdown(cancel_futures=True)
            for parts in large:
                parts.abort()
            raise


def part_size(size: int) -> int:
    """Bytes of a part of a file: always the same for the same file, so that its parts are known again."""
    smallest = -(-size // MAX_PARTS)
    return max(PART, -(-smallest // 2**20) * 2**20)


def _send_whole(bucket: Bucket, key: str, path: Path, meter: Meter) -> None:
    content = path.read_bytes()
    bucket.put(key, content)
    meter.add(len(content))


@dataclass
class _Parts:
    """A large file on its way."""

    bucket: Bucket
    key: str
    path: Path
    size: int
    meter: Meter

    def __post_init__(self) -> None:
        self._part = part_size(self.size)
        self.numbers = range(1, -(-self.size // self._part) + 1)
        self._upload: Upload = self.bucket.begun_upload(self.key) or self.bucket.new_upload(self.key)

    def send(self, number: int) -> str:
        """Sends a part unless the same is there; returns its entity tag."""
        content = self._read(number)
        tag = self._upload.parts.get(number)
        if tag is not None and tag == hashlib.md5(content, usedforsecurity=False).hexdigest():
            self.meter.skip(len(content))
            return tag
        tag = self.bucket.put_part(self._upload, number, content)
        self.meter.add(len(content))
        return tag

    def end(self, tags: list[str]) -> None:
        """Makes the parts an object.

        Raises:
            RetryableError: Another process has ended the upload in another way.
        """
        if "" not in tags and self.bucket.complete(self._upload, tags):
            return
        # Another process that sends the same file was first, or our own request was fulfilled and its answer lost.
        there = self.bucket.head(self.key)
        if there is None or there.size != self.size:
            where = self.bucket.uri(self.key)
            raise RetryableError("its upload was ended by somebody", where=where, hint="run the same command again")

    def abort(self) -> None:
        """Throws away what the store has of it."""
        self.bucket.abort(self._upload)

    def _read(self, number: int) -> bytes:
        start = (number - 1) * self._part
        with self.path.open("rb") as file:
            content = os.pread(file.fileno(), self._part, start)
        if len(content) != min(self._part, self.size - start):
            raise UserError("changed while it was read", where=str(self.path), hint="run the command again")
        return content
