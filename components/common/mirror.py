"""Folders of this machine whose content is in a bucket while they are written to.

What a stage writes while it trains is small files that grow, and checkpoints. A thread each looks for what is new, so
that training waits for neither, and a checkpoint that takes minutes does not hold back the signs of life. When the
store is away, training goes on; what was missed is sent when it is back.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.common import heartbeat
from components.common.checkpoint_files import CHECKPOINTS
from components.common.errors import RlhfError
from components.common.logs import say
from components.common.remote_checkpoints import RemoteCheckpoints
from components.common.s3_bucket import Bucket
from components.common.s3_upload import upload

EVERY = 3.0  # seconds between two looks at a folder
SECONDS_PER_MIB = 5.0  # a file that grows is sent again as a whole: the larger, the less often
LAST_PATIENCE = 20.0  # seconds for a store that is away when the process is to end: what a pod's grace period allows
_EVENTS = "tensorboard/"


@contextmanager
def mirrored(bucket: Bucket, prefix: str, folder: Path) -> Iterator[Path]:
    """Gives an empty local folder and keeps its files in the bucket; removes it at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = _Files(prefix, folder)
    try:
        with _repeated(bucket, files.sync, EVERY):
            yield folder
    finally:
        _last("files are", lambda: files.sync_all(bucket.stoppable(LAST_PATIENCE)))
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def work_folder(bucket: Bucket, prefix: str, folder: Path, *, writes: bool) -> Iterator[Path]:
    """Gives the local work folder of a run of a stage, with the newest checkpoint of any run of its key.

    Args:
        bucket: Where it is kept.
        prefix: Its key in there, `…/work/<stage>/<key>/<run>`.
        folder: The local folder; the last part is the run, the one above it is that of the key.
        writes: Whether this process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = RemoteCheckpoints(bucket, prefix, folder)
    if not writes:
        checkpoints.restore()
        yield folder
        return
    files = _Files(prefix, folder)
    try:
        with _repeated(bucket, files.sync, EVERY):
            with heartbeat.beating(folder):  # a checkpoint of many GiB takes longer than a hang is waited for
                checkpoints.restore()
            with _repeated(bucket, checkpoints.sync, 1.0):
                yield folder
    except BaseException:
        # Whoever goes on from here may do so on another machine.
        last = bucket.stoppable(LAST_PATIENCE)
        _last("checkpoint is", lambda: checkpoints.sync(last))
        _last("files are", lambda: files.sync_all(last))
        raise
    _last("files are", lambda: files.sync_all(bucket.stoppable(LAST_PATIENCE)))
    shutil.rmtree(folder, ignore_errors=True)


class _Files:
    """The small files of a folder."""

    def __init__(self, prefix: str, folder: Path) -> None:
        self._prefix, self._folder = prefix, folder
        self._sent: dict[str, tuple[int, int]] = {}
        self._when: dict[str, float] = {}
        self._stale: set[str] | None = None

    def sync(self, bucket: Bucket, *, everything: bool = False) -> None:
        """Sends what changed since it was sent, large files less often unless `everything` is asked for."""
        now = time.monotonic()
        found = dict(self._found())
        for name, stamp in found.items():
            wait = stamp[0] / 2**20 * SECONDS_PER_MIB
            if self._sent.get(name) != stamp and (everything or now - self._when.get(name, -wait) >= wait):
                self._sent[name], self._when[name] = stamp, now
                self._send(bucket, name)
        self._drop_stale_events(bucket, found)

    def sync_all(self, bucket: Bucket) -> None:
        """Sends all that changed."""
        self.sync(bucket, everything=True)

    def _send(self, bucket: Bucket, name: str) -> None:
        try:
            upload(bucket, {f"{self._prefix}/{name}": self._folder / name}, what=name)
        except FileNotFoundError:  # a temporary file of somebody's
            return
        except BaseException:
            del self._sent[name], self._when[name]
            raise

    def _found(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for base, folders, names in os.walk(self._folder):
            if Path(base) == self._folder and CHECKPOINTS in folders:
                folders.remove(CHECKPOINTS)
            for name in names:
                path = Path(base, name)
                if not name.startswith(".") and path.is_file():
                    stat = path.stat()
                    yield path.relative_to(self._folder).as_posix(), (stat.st_size, stat.st_mtime_ns)

    def _drop_stale_events(self, bucket: Bucket, found: dict[str, tuple[int, int]]) -> None:
        """Removes TensorBoard's files of an earlier attempt: this one has written their values again."""
        if not any(name.startswith(_EVENTS) for name in found):
            return
        if self._stale is None:
            self._stale = {entry.key for entry in bucket.entries(f"{self._prefix}/{_EVENTS}")}
        gone = self._stale - {f"{self._prefix}/{name}" for name in found}
        bucket.remove(gone)
        self._stale = set()


@contextmanager
def _repeated(bucket: Bucket, action: Callable[[Bucket], None], seconds: float) -> Iterator[None]:
    """Does something again and again beside a block; what fails is tried again next time."""
    impatient = bucket.stoppable(1.0)

    def loop() -> None:
        told = False
        while not impatient.stop.wait(seconds):
            try:
                action(impatient)
                told = False
            except Exception as error:  # a thread that ended here would take all later checkpoints with it
                if not told and not impatient.stop.is_set():
                    say("store", f"warning: {error}; the stage goes on, what it writes is sent later")
                    told = True

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        impatient.stop.set()
        thread.join(LAST_PATIENCE)


def _last(what: str, action: Callable[[], None]) -> None:
    """Does what is left to do at the end; that the store is away then is no failure of the stage."""
    try:
        action()
    except (RlhfError, OSError) as error:
        say("store", f"the last {what} not in the store: {error}")
