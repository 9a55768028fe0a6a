"""A store in a directory: an artifact appears whole, by a rename."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from components.common.errors import InputError, UserError
from components.common.store import MANIFEST


class DirectoryStore:
    """A store in a local or shared directory."""

    verifies = False

    def __init__(self, root: Path) -> None:
        self.root = str(root.absolute())
        self._root = Path(self.root)

    def exists(self, path: str) -> bool:
        return (self._root / path).is_file()

    def read(self, path: str) -> bytes:
        try:
            return (self._root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise InputError("no such file", where=str(self._root / path)) from error

    def write(self, path: str, content: bytes) -> None:
        target = self._root / path
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o644)
                os.replace(name, target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def files(self, prefix: str) -> list[str]:
        folder = self._root / prefix
        found = (path.relative_to(self._root).as_posix() for path in folder.rglob("*") if path.is_file())
        return sorted(found)

    def fetch(self, prefix: str) -> Path:
        found = self._root / prefix
        if not found.exists():
            raise InputError("no such file or folder", where=str(found))
        return found

    def publish(self, folder: Path, prefix: str) -> bool:
        target = self._root / prefix
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    path.chmod(0o644)  # safetensors makes files that only their owner can read
                    sync(path)
            try:
                os.rename(folder, target)
            except OSError as error:
                if (target / MANIFEST).exists():
                    return False
                if target.exists():  # not ours: an artifact appears whole, by this rename
                    raise UserError(
                        "is not empty and not an artifact", where=str(target), hint="move it away, or choose another"
                    ) from error
                raise
            sync(target.parent)
        return True

    def scratch(self) -> Path:
        folder = self._root / ".scratch"
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            made = Path(tempfile.mkdtemp(dir=folder, prefix=f"{platform.node()}.{os.getpid()}."))
            made.chmod(0o755)
        return made

    def remove(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def remove_folder(self, prefix: str) -> None:
        shutil.rmtree(self._root / prefix, ignore_errors=True)

    def folder(self, prefix: str) -> AbstractContextManager[Path]:
        return nullcontext(self._made(prefix))

    def work(self, prefix: str, *, writes: bool) -> AbstractContextManager[Path]:
        return nullcontext(self._root / prefix)

    def _made(self, prefix: str) -> Path:
        target = self._root / prefix
        with _writing(target):
            target.mkdir(parents=True, exist_ok=True)
        return target


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, NotADirectoryError) as error:
        raise UserError(
            f"cannot write: {error.strerror}", where=str(target), hint="choose another store or mend its permissions"
        ) from error
    except OSError as error:
        if error.errno in (28, 30, 122):  # ENOSPC, EROFS, EDQUOT
            raise UserError(
                f"cannot write: {error.strerror}", where=str(target), hint="free space or choose another store"
            ) from error
        raise


def _sweep(folder: Path) -> None:
    """Removes what killed processes of this machine left."""
    for path in folder.glob(f"{platform.node()}.*"):
        pid = path.name.removeprefix(f"{platform.node()}.").partition(".")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Makes sure that a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
