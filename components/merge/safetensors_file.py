"""The safetensors format: where a file's tensors lie, and a new file's header. No tensor data is read here.

Layout of a file: header length (8 bytes, little endian), header (JSON), tensor data. Offsets in the header count from
the end of the header (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.errors import InputError

DTYPE_SIZE = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    Attributes:
        name: Its name.
        dtype: The format's name of its type, a key of `DTYPE_SIZE`.
        shape: Its shape; data is row-major.
        path: The file.
        offset: Position of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.count * DTYPE_SIZE[self.dtype]


@dataclass(frozen=True)
class Layout:
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> tuple[dict[str, str], tuple[Tensor, ...]]:
    """Reads a file's metadata and its tensors in the order of their data.

    Raises:
        InputError: The file is cut, damaged or holds a type that is not known.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
        if not 2 <= length <= min(_MAX_HEADER, size - _LENGTH.size):
            raise _damaged(path, "its header is cut or not one of a safetensors file")
        header = file.read(length)
    data = _LENGTH.size + length
    try:
        fields: dict[str, Any] = json.loads(header)
        metadata = fields.pop("__metadata__", {})
        tensors = sorted((_tensor(path, data, *item) for item in fields.items()), key=lambda tensor: tensor.offset)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, "its header is not that of a safetensors file") from error
    end = data
    for tensor in tensors:
        if tensor.offset != end:
            raise _damaged(path, f"the data of {tensor.name} is not where it should be")
        end += tensor.size
    if end != size:
        raise _damaged(path, f"it has {size} bytes, its header says {end}")
    return metadata, tuple(tensors)


def create(path: Path, metadata: Mapping[str, str], layouts: Sequence[Layout]) -> tuple[Tensor, ...]:
    """Writes a file's header and makes room for its data.

    Args:
        path: The file, which must not exist.
        metadata: Text for `__metadata__`; `format` is `pt` unless given, as transformers wants it.
        layouts: The tensors in any order. Wide types go first so that all data is aligned.

    Returns:
        The tensors in the order of `layouts`, with the places where their data belongs.
    """
    fields: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    position, begins = 0, {}
    for layout in sorted(layouts, key=lambda layout: -DTYPE_SIZE[layout.dtype]):
        begins[layout.name] = position
        position += math.prod(layout.shape) * DTYPE_SIZE[layout.dtype]
        fields[layout.name] = {
            "dtype": layout.dtype,
            "shape": list(layout.shape),
            "data_offsets": [begins[layout.name], position],
        }
    header = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    data = _LENGTH.size + len(header)
    with path.open("xb") as file:
        file.write(_LENGTH.pack(len(header)) + header)
        file.truncate(data + position)
    return tuple(Tensor(item.name, item.dtype, item.shape, path, data + begins[item.name]) for item in layouts)


def _tensor(path: Path, data: int, name: str, fields: Mapping[str, Any]) -> Tensor:
    tensor = Tensor(name, fields["dtype"], tuple(fields["shape"]), path, data + fields["data_offsets"][0])
    if tensor.size != fields["data_offsets"][1] - fields["data_offsets"][0]:
        raise ValueError(name)
    return tensor


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"cannot be read: {what}", where=str(path), hint="fetch or make the file again")
