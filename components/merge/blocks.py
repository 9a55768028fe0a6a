"""The arithmetic of a merge, block by block: W + scale · B·A in float32, rounded once to the stored type."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import InputError, RlhfError, UserError
from components.merge.adapter import Lora
from components.merge.casts import BLOCK, STORAGE, Float32, fits, from_float32, to_float32
from components.merge.open_files import OpenFiles
from components.merge.plan import Write
from components.merge.safetensors_file import DTYPE_SIZE, Tensor

_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Block:
    """Elements `begin` to `end` of a tensor; whole rows if there is an update."""

    write: Write
    begin: int
    end: int


class _Scratch(threading.local):
    """Buffers of one thread, kept from block to block: fresh memory would have to be faulted in every time."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.uint8]] = {}

    def get(self, name: str, count: int, dtype: Any) -> NDArray[Any]:
        size = count * np.dtype(dtype).itemsize
        held = self._arrays.get(name)
        if held is None or held.size < size:
            held = self._arrays[name] = np.empty(size, np.uint8)
        return held[:size].view(dtype)


_scratch = _Scratch()
_files = OpenFiles()


def close_files() -> None:
    """Closes the files that were read and written since the last call, when no block is under way."""
    _files.close()


def check_finite(tensor: Tensor) -> None:
    """Looks for NaN and infinity in a tensor of the adapter.

    Raises:
        InputError: There is one.
    """
    for begin in range(0, tensor.count, BLOCK):
        values = _scratch.get("values", min(BLOCK, tensor.count - begin), np.float32)
        _read_float32(tensor, begin, values)
        if not fits(values, "F32"):
            raise InputError(
                f"{tensor.name} holds NaN or infinity",
                where=str(tensor.path),
                hint="its training diverged: train the adapter again",
            )


def cut(write: Write) -> Iterator[Block]:
    """Cuts a tensor into blocks that fit the buffers; its shape alone decides where."""
    target = write.target
    if write.lora:
        step = max(1, BLOCK // target.shape[1]) * target.shape[1]
    elif write.source.dtype == target.dtype:
        step = _COPY_BYTES // DTYPE_SIZE[target.dtype]
    else:
        step = BLOCK
    return (Block(write, begin, min(begin + step, target.count)) for begin in range(0, target.count, step))


def write_block(block: Block) -> None:
    """Computes one block and writes it.

    Raises:
        UserError: A value would become infinite, or the disk is full.
        InputError: The base holds NaN or infinity, or a file became shorter.
    """
    source, target, lora = block.write.source, block.write.target, block.write.lora
    count = block.end - block.begin
    if lora is None and source.dtype == target.dtype:
        raw = _scratch.get("raw", count * DTYPE_SIZE[source.dtype], np.uint8)
        _files.read(source, block.begin, raw)
        _files.write(target, block.begin, raw)
        return
    values: Float32 = _scratch.get("values", count, np.float32)
    _read_float32(source, block.begin, values)
    if lora:
        columns = target.shape[1]
        np.add(values, _update(lora, block.begin // columns, block.end // columns), out=values)
    if not fits(values, target.dtype):
        raise _not_finite(block)
    raw = _scratch.get("raw", count, STORAGE[target.dtype])
    from_float32(values, target.dtype, raw, _scratch.get("update", count, np.int32))
    _files.write(target, block.begin, raw)


def _update(lora: Lora, first: int, last: int) -> Float32:
    """Rows `first` to `last` of scale · B·A, flattened, in this thread's buffer."""
    rank, columns = lora.a.shape
    rows = last - first
    b: Float32 = _scratch.get("b", rows * rank, np.float32)
    _read_float32(lora.b, first * rank, b)
    update: Float32 = _scratch.get("update", rows * columns, np.float32)
    np.matmul(b.reshape(rows, rank), _factor(lora.a), out=update.reshape(rows, columns))
    return np.multiply(update, np.float32(lora.scale), out=update)


@lru_cache(maxsize=8)
def _factor(a: Tensor) -> Float32:
    """All of A: every block of a weight needs it."""
    values: Float32 = np.empty(a.count, np.float32)
    _read_float32(a, 0, values)
    return values.reshape(a.shape)


def _read_float32(tensor: Tensor, begin: int, out: Float32) -> None:
    """Reads elements of a float tensor from `begin` on, as many as `out` has."""
    if tensor.dtype == "F32":
        _files.read(tensor, begin, out)
    else:
        raw = _scratch.get("raw", out.size, STORAGE[tensor.dtype])
        _files.read(tensor, begin, raw)
        to_float32(raw, tensor.dtype, out)


def _not_finite(block: Block) -> RlhfError:
    source, target = block.write.source, block.write.target
    values: Float32 = _scratch.get("values", block.end - block.begin, np.float32)
    _read_float32(source, block.begin, values)
    if not fits(values, "F32"):
        return InputError(
            f"{source.name} holds NaN or infinity", where=str(source.path), hint="give a sound base model"
        )
    return UserError(
        f"{target.name} has a value that is too large for {target.dtype}",
        where=str(source.path),
        hint="train the adapter again" if target.dtype == "F32" else "set merge.dtype to float32",
    )
