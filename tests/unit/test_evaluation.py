"""Held-out metrics: a token mean whatever the batch, ties count half, intervals that contain what they should."""

import numpy as np
import pytest
import torch

from components.common.device import device_policy, dtype_for
from components.common.evaluation import batches_by_length, likelihood, score_sequences, sequence_log_probs
from components.common.heldout import PairScores, gain_interval
from components.data.table import build_table
from components.data.tokenise import Tokens
from tests.support.models import FAMILIES, tiny_model

POLICY = device_policy()


def make_table(tokenizer, count=12):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        ids = rng.integers(5, len(tokenizer), rng.integers(3, 30))
        rows.append(Tokens(ids, rng.random(len(ids)) < 0.5))
    return build_table(rows, len(tokenizer))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_label_tokens_whatever_the_batch(family, tokenizer):
    model, table = tiny_model(family, tokenizer), make_table(tokenizer)
    sums, tokens = [0.0] * len(table), 0
    with torch.no_grad():
        for i in range(len(table)):
            logprobs = model(torch.tensor(table.ids(i))[None]).logits[0].double().log_softmax(-1)
            for t in range(1, len(table.ids(i))):
                if table.labels(i)[t] != -100:
                    sums[i] += logprobs[t - 1, table.ids(i)[t]].item()
                    tokens += 1
    loss = -sum(sums) / tokens
    for max_tokens in (1, 64, 10000):
        measured = likelihood(model, table, range(len(table)), POLICY, max_tokens)
        assert measured.tokens == tokens
        assert measured.loss == pytest.approx(loss, rel=1e-5)
        assert measured.perplexity == pytest.approx(np.exp(loss), rel=1e-4)
        assert sequence_log_probs(model, table, POLICY, max_tokens) == pytest.approx(sums, rel=1e-5, abs=1e-5)


def test_batches_hold_every_row_once_within_the_limit():
    lengths = [5, 1, 9, 3, 3, 7]
    batches = batches_by_length(lengths, max_tokens=12)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 12 for batch in batches)


def test_scores_come_back_in_the_order_given():
    rows = [np.arange(1, n + 1) for n in (4, 1, 3, 2)]
    scores = score_sequences(lambda ids, mask: (ids * mask).sum(1), rows, POLICY, max_tokens=6)
    assert scores.tolist() == [10, 1, 6, 3]


def test_pair_metrics_count_ties_half_and_split_by_length():
    pairs = PairScores(
        np.asarray([1.0, 0.0, 2.0, -1.0]),
        np.asarray([0.0, 0.0, 3.0, -2.0]),
        np.asarray([5, 5, 4, 6]),
        np.asarray([5, 5, 6, 4]),
    )
    metrics = pairs.metrics()
    assert metrics["accuracy"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert metrics["accuracy_equal_length"] == 0.75
    assert metrics["accuracy_chosen_longer"] == 1
    assert metrics["accuracy_chosen_shorter"] == 0
    assert metrics["margin"] == pytest.approx((1 + 0 - 1 + 1) / 4)


def test_a_zero_head_gives_one_half():
    zeros = np.zeros(10)
    assert PairScores(zeros, zeros, zeros, zeros).accuracy() == 0.5


def test_the_bootstrap_sees_a_gain_and_no_gain():
    rng = np.random.default_rng(0)
    before = rng.normal(size=300)
    gain = gain_interval(before, before + 0.3 + rng.normal(size=300))
    assert 0 < gain["low"] < 0.3 < gain["high"]
    assert gain["mean"] == pytest.approx(0.3, abs=0.15)
    none = gain_interval(before, before + rng.normal(size=300))
    assert none["low"] < 0 < none["high"]


def test_a_t4_never_computes_in_bfloat16():
    assert dtype_for((7, 5)) == torch.float16
    assert dtype_for((7, 0)) == torch.float16
    assert dtype_for((8, 0)) == torch.bfloat16
