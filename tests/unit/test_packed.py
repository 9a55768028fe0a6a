"""Packed rows: attention stops at borders or the model is refused; every row comes once an epoch."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from components.common.device import device_policy
from components.common.errors import UserError
from components.common.packed import _check_borders, packed_dataset
from components.common.trainer import batch_shape, training_order
from components.common.training import TrainingConfig
from components.data.pack import pack
from components.data.table import TokenTable, build_table
from components.data.tokenise import Tokens
from tests.support.models import FAMILIES, tiny_model

POLICY = device_policy()


@dataclass
class FakeJob:
    config: TrainingConfig
    seed: int = 0
    name: str = "sft"


@pytest.fixture(scope="module")
def table(tokenizer):
    rng = np.random.default_rng(0)
    rows = [Tokens(rng.integers(5, len(tokenizer), n), rng.random(n) < 0.5) for n in (9, 14, 5, 11, 20, 3)]
    made = build_table(rows, len(tokenizer))
    return TokenTable(made.tokens, made.offsets, made.trained, pack(made.lengths, 32))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_packed_row_gives_the_loss_of_its_sequences(family, tokenizer, table):
    model = tiny_model(family, tokenizer)
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    for row in range(len(table.rows)):
        batch = collate([table.packed(row)])
        inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
        labels = batch["labels"][0]
        packed = [-logits[t - 1, labels[t]].item() for t in range(1, len(labels)) if labels[t] != -100]
        alone = []
        for sequence in table.rows.row(row):
            ids, wanted = torch.tensor(table.ids(sequence)), torch.tensor(table.labels(sequence))
            with torch.no_grad():
                logprobs = model(ids[None]).logits[0].log_softmax(-1)
            alone += [-logprobs[t - 1, wanted[t]].item() for t in range(1, len(ids)) if wanted[t] != -100]
        assert packed == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_looks_across_borders_is_refused(family, tokenizer, table):
    model, job = tiny_model(family, tokenizer), FakeJob(TrainingConfig())
    if family == "bloom":
        with pytest.raises(UserError, match="attends across the borders"):
            _check_borders(job, model, table, POLICY)
    else:
        _check_borders(job, model, table, POLICY)


def test_rows_come_in_the_order_asked_for(table):
    dataset = packed_dataset(table, np.asarray([1, 0, 1]))
    assert [row["input_ids"] for row in dataset] == [table.packed(i)["input_ids"] for i in (1, 0, 1)]


def test_rows_are_read_when_they_are_asked_for_and_not_before(table, monkeypatch):
    read = []
    monkeypatch.setattr(TokenTable, "packed", lambda _, row: read.append(row) or {"input_ids": [row]})
    dataset = packed_dataset(table, np.arange(1000) % len(table.rows))
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
    config = TrainingConfig(train_batch_size=batch, per_device_train_batch_size=micro)
    assert batch_shape(config) == shape
    assert shape[0] * shape[1] * world == batch


def test_an_uneven_share_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="cannot be shared by 4 processes"):
        batch_shape(TrainingConfig(train_batch_size=6))
