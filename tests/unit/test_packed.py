"""Packed rows: attention stops at borders or the model is refused; every row and every label counts once an epoch."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model

from components.common.batches import PackedRows, collate
from components.common.causal import Tables
from components.common.device import device_policy
from components.common.errors import UserError
from components.common.evaluation import likelihood
from components.common.label_head import label_head
from components.common.packed import _check_borders, train_packed
from components.common.trainables import lora_config
from components.common.trainer_arguments import batch_shape, training_order
from components.common.training import LoraSettings, TrainingConfig
from components.data.pack import one_each, pack
from components.data.table import TokenTable, build_table
from components.data.tokenise import Tokens
from tests.support.models import FAMILIES, tiny_model

POLICY = device_policy()


@dataclass
class FakeJob:
    config: TrainingConfig
    seed: int = 0
    name: str = "sft"
    work: Path = Path()


@pytest.fixture(scope="module")
def table(tokenizer):
    rng = np.random.default_rng(0)
    rows = [Tokens(rng.integers(5, len(tokenizer), n), rng.random(n) < 0.5) for n in (9, 14, 5, 11, 20, 3)]
    made = build_table(rows, len(tokenizer))
    return TokenTable(made.tokens, made.offsets, made.trained, pack(made.lengths, 32))


@pytest.fixture(scope="module")
def uneven(tokenizer):
    """Rows with very different numbers of labels: means of micro-batches' means would show."""
    rng = np.random.default_rng(1)
    rows = [Tokens(rng.integers(5, len(tokenizer), n), rng.random(n) < n / 40) for n in rng.integers(3, 31, 40)]
    made = build_table(rows, len(tokenizer))
    return TokenTable(made.tokens, made.offsets, made.trained, pack(made.lengths, 32))


def unpacked(table):
    """The same sequences, one a row."""
    return TokenTable(table.tokens, table.offsets, table.trained, one_each(len(table)))


def batch_of(table, rows):
    """A micro-batch of some rows, and the likelihood of their sequences as the evaluator measures it."""
    batch = collate([table.packed(row) for row in rows])
    return batch, [int(i) for row in rows for i in table.rows.row(row)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_batch_of_packed_rows_gives_the_loss_of_its_sequences(family, tokenizer, uneven):
    model = tiny_model(family, tokenizer)
    batch, sequences = batch_of(uneven, range(len(uneven.rows)))
    alone = likelihood(model, uneven, sequences, POLICY, max_tokens=64)
    assert len(set(batch.pop("lengths").tolist())) > 1  # so some row is padded
    with label_head(model), torch.no_grad():
        nll, _ = model(**batch)
    assert (batch["labels"] != -100).sum() == alone.tokens
    assert nll.item() == pytest.approx(alone.nll, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_one_sequence_are_padded_and_any_model_computes_them(family, tokenizer, table):
    single = unpacked(table)
    model = tiny_model(family, tokenizer)
    batch, sequences = batch_of(single, range(len(single)))
    del batch["lengths"]
    with label_head(model), torch.no_grad():
        nll, _ = model(**batch)
    assert nll.item() == pytest.approx(likelihood(model, single, sequences, POLICY, max_tokens=64).nll, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_looks_across_borders_is_refused(family, tokenizer, table):
    model, job = tiny_model(family, tokenizer), FakeJob(TrainingConfig())
    if family == "bloom":
        with pytest.raises(UserError, match="attends across the borders"):
            _check_borders(job, model, table, POLICY)
    else:
        _check_borders(job, model, table, POLICY)


def test_rows_come_in_the_order_asked_for(table):
    rows = PackedRows(table, np.asarray([1, 0, 1]))
    assert len(rows) == 3
    assert [rows[i]["input_ids"] for i in range(3)] == [table.packed(i)["input_ids"] for i in (1, 0, 1)]


def train(tokenizer, table, work, family="llama", **settings):
    """Trains an adapter for three steps; returns it and the curves."""
    work = work / "run"  # checkpoints of the folders beside it would be gone on from
    config = TrainingConfig(max_steps=3, learning_rate=1e-2, train_batch_size=4, lora=LoraSettings(r=4), **settings)
    model = tiny_model(family, tokenizer)
    torch.manual_seed(0)
    model = get_peft_model(model, lora_config(model, config.lora, "CAUSAL_LM"))
    train_packed(FakeJob(config, work=work), model, Tables(table, table), POLICY)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return trained, [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


def test_a_step_does_not_depend_on_the_size_of_its_micro_batches(tokenizer, uneven, tmp_path):
    runs = {n: train(tokenizer, uneven, tmp_path / str(n), per_device_train_batch_size=n) for n in (1, 2, 4)}
    weights, curves = runs[1]
    assert len(curves) == 3
    for other_weights, other_curves in (runs[2], runs[4]):
        for one, other in zip(curves, other_curves, strict=True):
            assert other == pytest.approx(one, rel=1e-4)
        for name, weight in weights.items():
            torch.testing.assert_close(other_weights[name], weight, rtol=0, atol=1e-4)


def test_recomputed_activations_change_nothing(tokenizer, uneven, tmp_path):
    (weights, _), (again, _) = (
        train(tokenizer, uneven, tmp_path / str(on), activation_checkpointing=on) for on in (False, True)
    )
    for name, weight in weights.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=1e-5)


def test_the_loss_of_a_step_is_the_mean_over_its_label_tokens(tokenizer, uneven, tmp_path):
    job = FakeJob(TrainingConfig(max_steps=3, train_batch_size=4))
    sequences = [int(i) for row in training_order(job, len(uneven.rows))[:4] for i in uneven.rows.row(row)]
    expected = likelihood(tiny_model("llama", tokenizer), uneven, sequences, POLICY, max_tokens=64)
    _, curves = train(tokenizer, uneven, tmp_path)
    assert curves[0]["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert 0 <= curves[0]["token_accuracy"] <= 1


def test_bloom_trains_on_rows_of_one_sequence_in_any_micro_batch(tokenizer, uneven, tmp_path):
    single = unpacked(uneven)
    runs = [train(tokenizer, single, tmp_path / str(n), "bloom", per_device_train_batch_size=n)[1] for n in (1, 4)]
    for one, other in zip(*runs, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def test_rows_are_read_when_they_are_asked_for_and_not_before(table, monkeypatch):
    read = []
    monkeypatch.setattr(TokenTable, "packed", lambda _, row: read.append(row) or {"input_ids": [row]})
    dataset = PackedRows(table, np.arange(1000) % len(table.rows))
    assert read == []
    assert dataset[7]["input_ids"] == [7 % len(table.rows)]
    assert read == [7 % len(table.rows)]


@pytest.mark.parametrize(("rows", "batch", "epochs"), [(10, 4, 1), (10, 4, 3), (3, 8, 2), (16, 4, 2)])
def test_every_row_is_seen_once_an_epoch(rows, batch, epochs):
    job = FakeJob(TrainingConfig(train_batch_size=batch, num_train_epochs=epochs))
    order = training_order(job, rows)
    assert len(order) % batch == 0
    assert len(order) - rows * epochs < batch
    for epoch in range(epochs):
        assert sorted(order[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_the_order_follows_steps_and_seed():
    job = FakeJob(TrainingConfig(train_batch_size=4, max_steps=5))
    assert len(training_order(job, 7)) == 20
    assert training_order(job, 7).tolist() == training_order(job, 7).tolist()
    assert training_order(job, 7).tolist() != training_order(FakeJob(job.config, seed=1), 7).tolist()


@pytest.mark.parametrize(
    ("world", "batch", "micro", "shape"),
    [(1, 16, 4, (4, 4)), (4, 16, 4, (4, 1)), (2, 12, 4, (3, 2)), (1, 3, 8, (3, 1))],
)
def test_the_global_batch_is_kept(monkeypatch, world, batch, micro, shape):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    assert batch_shape(TrainingConfig(train_batch_size=batch), micro) == shape
    assert shape[0] * shape[1] * world == batch


def test_an_uneven_share_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="cannot be shared by 4 processes"):
        batch_shape(TrainingConfig(train_batch_size=6), 1)
