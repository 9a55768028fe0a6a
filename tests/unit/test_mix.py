"""Sources are mixed by weight: shares are exact, no row is left out for chance, the seed decides which."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.config import validate
from components.common.errors import UserError
from components.data.config import DataConfig, SftPart
from components.data.mix import apportion, mix

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@given(st.integers(0, 10_000), WEIGHTS)
def test_parts_sum_to_the_whole_and_are_within_one_of_their_share(total, weights):
    parts = apportion(total, weights)
    assert sum(parts) == total
    assert all(abs(part - weight / sum(weights) * total) < 1 for part, weight in zip(parts, weights, strict=True))


def test_the_largest_remainder_gets_the_odd_row():
    assert apportion(10, [0.7, 0.3]) == [7, 3]
    assert apportion(10, [2, 1]) == [7, 3]
    assert apportion(5, [1, 1]) == [3, 2]


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.05, 20)), min_size=1, max_size=5), st.integers(1, 400))
def test_every_row_of_a_source_is_used_equally_often_give_or_take_one(sources, limit):
    available, weights = zip(*sources, strict=True)
    chosen = mix(available, weights, limit, seed=3)
    assert sum(map(len, chosen)) == min(limit, sum(available))
    for rows, picked in zip(available, chosen, strict=True):
        times = np.bincount(picked, minlength=rows)
        assert len(times) == rows
        assert times.max() - times.min() <= 1


def test_weights_are_shares_of_all_rows_there_are():
    chosen = mix([100, 300], [0.5, 0.5], None, seed=0)
    assert [len(picked) for picked in chosen] == [200, 200]
    assert set(Counter(chosen[0].tolist()).values()) == {2}
    assert len(set(chosen[1].tolist())) == 200


def test_a_cap_without_weights_draws_from_all_sources_alike():
    chosen = mix([900, 100], None, 100, seed=0)
    assert [len(picked) for picked in chosen] == [90, 10]
    assert all(len(set(picked.tolist())) == len(picked) for picked in chosen)
    assert chosen[0].max() > 500  # not simply the first ones


def test_the_seed_decides_which_rows():
    def rows(seed):
        return mix([50, 50], [9, 1], None, seed)[1].tolist()

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_all_sources_have_a_weight_or_none():
    half = {"sft": {"sources": [{"path": "a", "weight": 1}, "b"]}}
    with pytest.raises(UserError, match=r"data\.sft: give every source a weight, or none"):
        validate(DataConfig, half, "data", "run.yaml")
    with pytest.raises(UserError, match=r"data\.sft\.sources\.0\.weight"):
        validate(DataConfig, {"sft": {"sources": [{"path": "a", "weight": 0}]}}, "data", "run.yaml")


@pytest.mark.parametrize(
    ("part", "draws"),
    [({}, False), ({"max_samples": 5}, True), ({"sources": [{"path": "a", "weight": 1}]}, True)],
)
def test_only_a_part_that_draws_depends_on_the_seed(part, draws):
    assert SftPart.model_validate(part).draws is draws
