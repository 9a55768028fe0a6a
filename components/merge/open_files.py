"""Reading and writing parts of tensors by position, from several threads at once."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from components.common.errors import InputError, UserError
from components.merge.safetensors_file import DTYPE_SIZE, Tensor


class OpenFiles:
    """Files that stay open until `close`. Reads and writes carry their position, so threads need no lock for them."""

    def __init__(self) -> None:
        self._handles: dict[tuple[Path, int], int] = {}
        self._lock = threading.Lock()

    def read(self, tensor: Tensor, begin: int, out: NDArray[Any]) -> None:
        """Fills `out` with a tensor's stored elements from number `begin` on.

        Raises:
            InputError: The file ends before.
        """
        view = out.data.cast("B")
        position = tensor.offset + begin * DTYPE_SIZE[tensor.dtype]
        while view:
            got = os.preadv(self._handle(tensor.path, os.O_RDONLY), [view], position)
            if not got:
                raise InputError("became shorter while it was read", where=str(tensor.path))
            view, position = view[got:], position + got

    def write(self, tensor: Tensor, begin: int, values: NDArray[Any]) -> None:
        """Stores elements of a tensor from number `begin` on.

        Raises:
            UserError: The disk or the quota is full.
        """
        view = values.data.cast("B")
        position = tensor.offset + begin * DTYPE_SIZE[tensor.dtype]
        while view:
            try:
                put = os.pwrite(self._handle(tensor.path, os.O_WRONLY), view, position)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise UserError(
                    f"cannot write: {error.strerror}", where=str(tensor.path), hint="free space or choose another store"
                ) from error
            view, position = view[put:], position + put

    def close(self) -> None:
        """Closes them all."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def _handle(self, path: Path, flags: int) -> int:
        with self._lock:
            if (path, flags) not in self._handles:
                self._handles[path, flags] = os.open(path, flags)
            return self._handles[path, flags]
