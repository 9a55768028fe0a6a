"""Casts between the float types of checkpoints and float32, exact, two to four times as fast as numpy's own.

numpy casts float16 one element at a time and has no bfloat16. Here the bits are moved by whole-array integer and float
operations, which numpy does vector by vector. Rounding is to nearest, ties to even, once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 18
"""Most elements handled at once: few enough for the caches, enough to hide what a call costs."""

Float32 = NDArray[np.float32]
STORAGE: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.int16, "BF16": np.uint16}
# From these magnitudes on a value rounds to infinity.
_LIMITS = {"F32": np.inf, "F16": 65520.0, "BF16": float.fromhex("0x1.ffp127")}

_EXPONENT = np.int32(0x7F800000)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_HALF_SIGN_AND_PAYLOAD = np.int32(-0x70002000)  # 0x8FFFE000
_REBIAS = np.float32(2.0**112)  # exponent bias 127 of float32 less 15 of float16
_SMALLEST_NORMAL_HALF = np.full(BLOCK, (127 - 14) << 23, np.int32)  # an array: numpy's maximum is slow with a scalar


def to_float32(source: NDArray[Any], dtype: str, out: Float32) -> None:
    """Widens stored values; exact.

    Args:
        source: Values as `STORAGE[dtype]`, contiguous.
        dtype: F32, F16 or BF16.
        out: The result, of the same length.
    """
    if dtype == "F32":
        np.copyto(out, source)
    elif dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, source)
        np.left_shift(bits, 16, out=bits)
    elif source.max() >= 0x7C00 or source.view(np.uint16).max() >= 0xFC00:  # an infinity or NaN
        np.copyto(out, source.view(np.float16))
    else:
        # Sign to bit 31, exponent and fraction to their places; what is missing is the difference of the two biases,
        # a factor. As a multiplication it is right for subnormal values too.
        half = out.view(np.int32)
        np.copyto(half, source)
        np.left_shift(half, 13, out=half)
        np.bitwise_and(half, _HALF_SIGN_AND_PAYLOAD, out=half)
        np.multiply(out, _REBIAS, out=out)


def fits(values: Float32, dtype: str) -> bool:
    """Whether every value is a number and stays finite in that type."""
    limit = _LIMITS[dtype]
    return bool(-limit < values.min() and values.max() < limit)


def from_float32(values: Float32, dtype: str, out: NDArray[Any], scratch: NDArray[np.int32]) -> None:
    """Rounds values that `fits` accepts to their stored form.

    Args:
        values: The values; overwritten.
        dtype: F32, F16 or BF16.
        out: The result as `STORAGE[dtype]`, of the same length.
        scratch: Room of the same length.
    """
    if dtype == "F32":
        np.copyto(out, values)
    elif dtype == "BF16":
        _round_to_bfloat16(values.view(np.uint32), out, scratch.view(np.uint32))
    else:
        for part in (slice(begin, begin + BLOCK) for begin in range(0, values.size, BLOCK)):
            _round_to_half(values[part], out[part], scratch[part])


def _round_to_bfloat16(bits: NDArray[np.uint32], out: NDArray[np.uint16], odd: NDArray[np.uint32]) -> None:
    np.right_shift(bits, 16, out=odd)
    np.bitwise_and(odd, 1, out=odd)
    np.add(odd, 0x7FFF, out=odd)
    np.add(bits, odd, out=bits)
    np.right_shift(bits, 16, out=bits)
    np.copyto(out, bits, casting="unsafe")


def _round_to_half(values: Float32, out: NDArray[np.int16], unit: NDArray[np.int32]) -> None:
    """Lets the adder round: 2^13 times a value's power of two has its last bit where the half's last bit is.

    With e the exponent, not below that of the smallest normal half, |x| + 2^(e+13) is |x| rounded to a multiple of
    2^(e-10), and the distance of its bit pattern from that of 2^(e+13) is the multiple. Added to the exponent's place
    in a half it gives the half, a carry into the next exponent included.
    """
    bits = values.view(np.int32)
    np.right_shift(bits, 16, out=unit)
    np.copyto(out, unit, casting="unsafe")
    np.bitwise_and(out, np.int16(-0x8000), out=out)  # the sign
    np.bitwise_and(bits, _MAGNITUDE, out=bits)
    np.bitwise_and(bits, _EXPONENT, out=unit)
    np.maximum(unit, _SMALLEST_NORMAL_HALF[: unit.size], out=unit)
    np.add(unit, 13 << 23, out=unit)
    np.add(values, unit.view(np.float32), out=values)
    np.subtract(bits, unit, out=bits)
    np.right_shift(unit, 13, out=unit)  # 2^(e+13) has exponent bits e + 140, a half of exponent e has e + 14 (no hidden
    np.add(bits, unit, out=bits)  # bit): 126 too many, which is −2 in the six bits that are left
    half = unit.view(np.int16)[: out.size]
    np.copyto(half, bits, casting="unsafe")
    np.add(half, np.int16(2 << 10), out=half)
    np.bitwise_or(out, half, out=out)
