"""A disk that is full, or may not be written to: one line for whoever can mend that, whichever library found it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.common.errors import RlhfError, UserError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EROFS, errno.EACCES})
# torch.save and safetensors write by themselves, and what they raise is no OSError. The former tells no reason: a disk
# that takes only a part of what is written is the one it has.
_TORCH = re.compile(r"inline_container\.cc.*(unexpected pos|file write failed)|PytorchStreamWriter failed writing")
_SAFETENSORS = re.compile(r"\(os error (\d+)\)")


def disk_fault(error: BaseException, *folders: Path) -> UserError | None:
    """What to tell of an error, None if no disk is the cause.

    Args:
        error: What was raised, also where what the disk said is only its cause.
        folders: What is written to; the fullest is named where the error names no file.
    """
    cause: BaseException | None = error
    while cause is not None:
        number, path = _said(cause)
        if number in _FULL:
            where = path or (str(_fullest(folders)) if folders else "")
            return UserError(f"cannot write: {os.strerror(number)}", where=where, hint="free space, then start again")
        if number in _REFUSED and path:
            hint = "mend its permissions, or choose another place"
            return UserError(f"no access: {os.strerror(number)}", where=path, hint=hint)
        cause = cause.__cause__
    return None


@contextmanager
def disk_faults_named(*folders: Path) -> Iterator[None]:
    """What the block raises because of a disk becomes a `UserError` that names the file or folder.

    Args:
        folders: As for `disk_fault`.
    """
    try:
        yield
    except Exception as error:
        found = None if isinstance(error, RlhfError) else disk_fault(error, *folders)
        if found:
            raise found from error
        raise


def _said(error: BaseException) -> tuple[int, str]:
    """An error's number and the file that it names, 0 and nothing where it has none."""
    if isinstance(error, OSError):
        return error.errno or 0, str(error.filename2 or error.filename or "")
    text = str(error)
    if isinstance(error, RuntimeError) and _TORCH.search(text):
        return errno.ENOSPC, ""
    number = _SAFETENSORS.search(text) if type(error).__name__ == "SafetensorError" else None
    return (int(number[1]), "") if number else (0, "")


def _fullest(folders: tuple[Path, ...]) -> Path:
    """The folder with the least space, a missing one by what it would be made in."""

    def free(folder: Path) -> int:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return shutil.disk_usage(there).free

    return min(folders, key=free)
