"""Casts of the merge against numpy and torch: every half, every rounding boundary, both signs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from components.merge.casts import BLOCK, STORAGE, fits, from_float32, to_float32

ALL_16_BITS = np.arange(1 << 16, dtype=np.uint16)
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
EDGE = {"F16": 65520.0, "BF16": float.fromhex("0x1.ffp127")}
"""The smallest magnitude that rounds to infinity."""


def float32(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def as_torch(stored: NDArray[np.generic], dtype: str) -> torch.Tensor:
    return torch.from_numpy(stored.view(np.int16)).view(DTYPES[dtype])


def round_to(values: NDArray[np.float32], dtype: str) -> NDArray[np.uint16]:
    out = np.empty(values.size, STORAGE[dtype])
    from_float32(values.copy(), dtype, out, np.empty(values.size, np.int32))
    return out.view(np.uint16)


def boundaries(dtype: str) -> NDArray[np.float32]:
    """Every finite value, the points half-way between neighbours, and the float32 neighbours of all of these."""
    exact = np.sort(as_torch(ALL_16_BITS, dtype).double().numpy())
    exact = exact[np.isfinite(exact)]
    points = np.concatenate([exact, (exact[1:] + exact[:-1]) / 2]).astype(np.float32)
    around = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))]
    values = np.concatenate([*around, float32(1e-45, -1e-45, 1e-40, -1e-40)])
    kept: NDArray[np.float32] = values[np.abs(values) < EDGE[dtype]]
    return kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stored_value_is_widened_exactly(dtype: str) -> None:
    """Subnormal values, negative zero, infinities and NaN included."""
    expected = as_torch(ALL_16_BITS, dtype).float().numpy()
    out = np.empty(1 << 16, np.float32)
    to_float32(ALL_16_BITS.view(STORAGE[dtype]), dtype, out)
    np.testing.assert_array_equal(out, expected)
    finite = np.isfinite(expected)
    out = np.empty(int(finite.sum()), np.float32)
    to_float32(ALL_16_BITS[finite].view(STORAGE[dtype]), dtype, out)
    np.testing.assert_array_equal(out.view(np.uint32), expected[finite].view(np.uint32))


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E01, 0xFFFF])
def test_one_infinity_or_nan_is_enough_to_be_kept(bits: int) -> None:
    stored = np.full(100, 0x3C00, np.uint16)
    stored[70] = bits
    out = np.empty(100, np.float32)
    to_float32(stored.view(np.int16), "F16", out)
    np.testing.assert_array_equal(out, stored.view(np.float16).astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_at_every_boundary(dtype: str) -> None:
    values = boundaries(dtype)
    expected = torch.from_numpy(values).to(DTYPES[dtype]).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(round_to(values, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_of_any_bit_pattern(dtype: str) -> None:
    bits = np.random.default_rng(5).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
    values = bits.view(np.float32)
    limit = np.float32(65504.0 if dtype == "F16" else 3e38)
    values = values[np.abs(values) < limit]
    assert values.size > BLOCK  # several parts
    expected = torch.from_numpy(values).to(DTYPES[dtype]).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(round_to(values, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fits_up_to_the_value_that_rounds_to_infinity(dtype: str) -> None:
    edge = EDGE[dtype]
    last = float(np.nextafter(np.float32(edge), np.float32(0)))
    assert torch.tensor(edge).to(DTYPES[dtype]).isinf()
    assert torch.tensor(last).to(DTYPES[dtype]).isfinite()
    for sign in (1, -1):
        assert fits(float32(0, sign * last, 0), dtype)
        assert not fits(float32(0, sign * edge, 0), dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_fits_nowhere(value: float) -> None:
    for dtype in STORAGE:
        assert not fits(float32(1, value, 2), dtype)
