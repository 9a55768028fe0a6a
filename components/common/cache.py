"""What was fetched from a bucket and will be wanted again: immutable folders on this machine, each fetched once.

    <cache>/fetched/<name>/files/           the folder
    <cache>/fetched/<name>/parts/           unfinished files of it
    <cache>/fetched/<name>/verified.json    size and time of each file when its content was last seen to be right

The least recently used folders make room for new ones, unless a process still uses them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

from components.common import heartbeat
from components.common.errors import UserError

LOCK_SECONDS = 0.1  # between two tries of a lock that another process has

Stamps = dict[str, tuple[int, int]]

_held: dict[Path, int] = {}  # folders that this process uses, until it ends


@lru_cache(maxsize=1)
def cache_root() -> Path:
    """`RLHF_CACHE`, else `rlhf-stack` in the user's cache folder, else in the system's temporary folder.

    Raises:
        UserError: `RLHF_CACHE` cannot be written to.
    """
    named = os.environ.get("RLHF_CACHE")
    if named:
        return _writable(Path(named).expanduser().absolute())
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return _writable(home / "rlhf-stack")
    except (UserError, RuntimeError):  # a pod's user has no home, or one that is read-only
        return _writable(Path(tempfile.gettempdir()) / f"rlhf-stack-{os.getuid()}")


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=str(folder), hint="set RLHF_CACHE") from error
    if not os.access(folder, os.W_OK):
        raise UserError("cannot write", where=str(folder), hint="set RLHF_CACHE to a folder that can be written to")
    return folder


def fetched(name: str, size: int, bring: Callable[[Path, Path], None]) -> Path:
    """A folder of the cache, complete; this process uses it from now on.

    Args:
        name: Its name, which says what is in it.
        size: Bytes of its files.
        bring: Makes it complete: is given the folder, from which files that changed were taken out, and one for
            unfinished files. One process at a time does so; the others then find it done.

    Raises:
        UserError: There is no room.
    """
    entry = cache_root() / "fetched" / name
    files, parts, stamps = entry / "files", entry / "parts", entry / "verified.json"
    entry.mkdir(parents=True, exist_ok=True)
    _hold(entry)
    with locked(entry / "lock"):
        _take_out_changed(files, stamps)
        _make_room(entry, size)
        files.mkdir(exist_ok=True)
        try:
            bring(files, parts)
        except OSError as error:
            raise _full(error, files) from error
        finally:
            stamps.write_text(json.dumps(_stamps(files)), encoding="utf-8")
        shutil.rmtree(parts, ignore_errors=True)
    return files


def adopt(name: str, folder: Path) -> None:
    """Moves a folder, whose content is known to be right, into the cache, if it is on the same disk."""
    entry = cache_root() / "fetched" / name
    entry.mkdir(parents=True, exist_ok=True)
    with locked(entry / "lock"):
        if not (entry / "files").exists() and folder.stat().st_dev == entry.stat().st_dev:
            os.rename(folder, entry / "files")
            (entry / "verified.json").write_text(json.dumps(_stamps(entry / "files")), encoding="utf-8")
            os.utime(entry)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes of this machine out of a block. To wait for one that fetches is to get on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while not _lock(file):
            heartbeat.beat()  # whoever has the lock cannot hang: a transfer ends with an error when its store is away
            time.sleep(LOCK_SECONDS)
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _hold(entry: Path) -> None:
    """Says that this process uses an entry, until it ends."""
    if entry not in _held:
        _held[entry] = os.open(entry / "used", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(_held[entry], fcntl.LOCK_SH)
    os.utime(entry)


def _stamps(files: Path) -> Stamps:
    found = ((path, path.stat()) for path in files.rglob("*") if path.is_file())
    return {path.relative_to(files).as_posix(): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def _take_out_changed(files: Path, stamps: Path) -> None:
    """Removes what somebody has written to since it was verified.

    What has no stamp was verified, too, but then the process was killed.
    """
    try:
        known = {path: tuple(stamp) for path, stamp in json.loads(stamps.read_bytes()).items()}
    except (OSError, ValueError):
        known = {}
    for path, stamp in _stamps(files).items():
        if known.get(path, stamp) != stamp:
            (files / path).unlink()


def _make_room(entry: Path, size: int) -> None:
    """Removes the least recently used entries until the cache takes at most half of what the disk has for it."""
    missing = size - _size(entry)
    if missing <= 0:
        return
    entries = [path for path in entry.parent.iterdir() if path != entry]
    sizes = {path: _size(path) for path in entries}
    used, free = sum(sizes.values()), shutil.disk_usage(entry).free
    limit = (used + free) // 2
    for path in sorted(entries, key=lambda path: path.stat().st_mtime):
        if used + missing <= limit:
            break
        if _remove(path):
            used -= sizes[path]
    free = shutil.disk_usage(entry).free
    if free < missing:
        what = f"{missing / 2**30:.1f} GiB are to be fetched, {free / 2**30:.1f} GiB are free"
        raise UserError(what, where=str(entry.parent), hint="free space, or set RLHF_CACHE to a folder on another disk")


def _size(entry: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in entry.rglob("*") if path.is_file())


def _remove(entry: Path) -> bool:
    """Removes an entry unless a process uses it."""
    with (entry / "used").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        (entry / "verified.json").unlink(missing_ok=True)
        for name in ("files", "parts"):
            shutil.rmtree(entry / name, ignore_errors=True)
    return True


def _full(error: OSError, folder: Path) -> OSError | UserError:
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return UserError(
            f"cannot write: {error.strerror}", where=str(folder), hint="free space, or set RLHF_CACHE to another disk"
        )
    return error
