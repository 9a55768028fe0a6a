"""What uploads and downloads have in common: worker threads that can be ended, and lines about progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from components.common import heartbeat
from components.common.errors import RetryableError
from components.common.logs import say
from components.common.s3_bucket import Bucket

WORKERS = 8
TOLD_FROM = 256 << 20  # bytes; less is over before anyone wonders
TOLD_EVERY = 10.0  # seconds


class Meter:
    """Counts the bytes of a transfer and says how far it is.

    Args:
        what: Beginning of its lines.
        total: Bytes in all.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done, self._skipped, self._seen = what, total, 0, 0, 0
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Counts bytes that went over the line."""
        with self._lock:
            self._done += size

    def skip(self, size: int) -> None:
        """Counts bytes that were there already."""
        with self._lock:
            self._done += size
            self._skipped += size

    def tell(self) -> None:
        """Says how far it is, if it is long since the last line. For the thread that waits."""
        if self._done > self._seen:
            self._seen = self._done
            heartbeat.beat()
        now = time.monotonic()
        if self._total < TOLD_FROM or now - self._told < TOLD_EVERY:
            return
        self._told = now
        rate = (self._done - self._skipped) / (now - self._began)
        left = f"eta {(self._total - self._done) / rate:.0f}s" if rate else "waiting"
        sizes = f"{self._done / 2**30:.2f}/{self._total / 2**30:.2f} GiB"
        say("store", f"{self._what} {sizes} {rate / 2**20:.0f} MiB/s {left}")


@contextmanager
def workers(bucket: Bucket, count: int = WORKERS) -> Iterator[tuple[ThreadPoolExecutor, Bucket]]:
    """Gives threads, and the bucket for them to use. Whatever ends the block ends them, too, even their waiting."""
    stoppable = bucket.stoppable()
    pool = ThreadPoolExecutor(count)
    try:
        yield pool, stoppable
    finally:
        stoppable.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def finish(futures: Iterable[Future[Any]], meter: Meter, bucket: Bucket) -> None:
    """Waits for work; the first that fails ends the waiting with its error.

    Args:
        futures: The work.
        meter: Says how far it is.
        bucket: Whose `stop` ends the waiting.

    Raises:
        RetryableError: It was stopped.
    """
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if bucket.stop.is_set() and pending:
            raise RetryableError("was stopped", where=bucket.uri(""), hint="run the same command again")
        meter.tell()
