"""Direct preference optimisation: the paper's loss whatever the batch, a reference that costs nothing."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import transformers
from peft import get_peft_model
from pydantic import ValidationError

from components.common import generation
from components.common.answers import Exchange
from components.common.causal import CausalLM
from components.common.device import device_policy
from components.common.evaluation import batches_by_length, sequence_log_probs
from components.common.trainables import float32_trainables, lora_config
from components.common.trainer_arguments import trainer_arguments
from components.common.training import LoraSettings
from components.data.pairs import Pairs
from components.data.table import build_table
from components.data.tokenise import Tokens
from components.dpo.config import SMOOTHED, DpoConfig, LossType
from components.dpo.stage import Data, dpo_arguments, evaluate, log_probs, train
from components.dpo.trainer import PairTrainer, pair_dataset
from tests.support.models import FAMILIES, randomise_lora, tiny_model

POLICY = device_policy()
COUNT = 12


@dataclass
class FakeJob:
    config: DpoConfig
    work: Path
    seed: int = 0
    name: str = "dpo"


@pytest.fixture(scope="module")
def pairs(tokenizer):
    rng = np.random.default_rng(0)
    sides = {"chosen": [], "rejected": []}
    for _ in range(COUNT):
        prompt = rng.integers(5, len(tokenizer), rng.integers(2, 20))
        for rows in sides.values():
            answer = rng.integers(5, len(tokenizer), rng.integers(1, 12))
            ids = np.concatenate([prompt, answer])
            rows.append(Tokens(ids, np.arange(len(ids)) >= len(prompt)))
    return Pairs(*(build_table(rows, len(tokenizer)) for rows in sides.values()))


def adapted(tokenizer, family="llama", *, trained=False):
    base = tiny_model(family, tokenizer)
    model = get_peft_model(base, lora_config(base, LoraSettings(r=4), "CAUSAL_LM"))
    float32_trainables(model)
    if trained:
        randomise_lora(model, "default", scale=0.2)
    return CausalLM(model, tokenizer, POLICY)


def make_trainer(model, pairs, folder, **settings):
    job = FakeJob(DpoConfig(**settings), folder)
    return PairTrainer(
        model=model.model,
        args=dpo_arguments(job, trainer_arguments(job, POLICY, job.config.per_device_train_batch_size)),
        train_dataset=pair_dataset(pairs, np.arange(len(pairs))),
        processing_class=model.tokenizer,
    )


def loss_of(trainer, rows):
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    return trainer.compute_loss(trainer.model, batch).item()


def log_ratios(model, pairs):
    """log(policy / reference) of both answers, and how long they are."""
    ratios, lengths = [], []
    for table in (pairs.chosen, pairs.rejected):
        policy = sequence_log_probs(model.model, table, POLICY, 256)
        with model.model.disable_adapter():
            ratios.append(policy - sequence_log_probs(model.model, table, POLICY, 256))
        lengths.append(np.asarray([(table.labels(i) != -100).sum() for i in range(COUNT)]))
    return *ratios, *lengths


def test_a_row_is_the_prompt_and_what_follows_it(pairs):
    order = np.asarray([3, 0, 3])
    for row, got in zip(order, pair_dataset(pairs, order), strict=True):
        assert got["prompt_ids"] + got["chosen_ids"] == pairs.chosen.ids(row).tolist()
        assert got["prompt_ids"] + got["rejected_ids"] == pairs.rejected.ids(row).tolist()
        assert len(got["prompt_ids"]) == pairs.prompt_length(row)
        answer = [label for label in pairs.rejected.labels(row).tolist() if label != -100]
        assert got["rejected_ids"] == answer


def test_answers_are_written_in_batches_of_the_stages_own_size(tokenizer, pairs, tmp_path, monkeypatch):
    limits = []

    def batches(lengths, max_tokens):
        limits.append(max_tokens)
        return batches_by_length(lengths, max_tokens)

    monkeypatch.setattr(generation, "batches_by_length", batches)
    model, job = adapted(tokenizer), FakeJob(DpoConfig(eval_tokens=77, max_new_tokens=2), tmp_path)
    exchange = Exchange(pairs.chosen.ids(0)[:2], pairs.chosen.ids(0)[2:], "question")
    data = Data(pairs, pairs, [exchange])
    assert len(evaluate(job, model, data, log_probs(job, model, data)).answers.right) == 1
    assert limits == [77]


@pytest.mark.parametrize("family", FAMILIES)
def test_before_training_the_loss_is_ln_2_and_every_pair_a_tie(family, tokenizer, pairs, tmp_path):
    model = adapted(tokenizer, family)
    assert loss_of(make_trainer(model, pairs, tmp_path), range(COUNT)) == pytest.approx(math.log(2), abs=1e-7)
    job, data = FakeJob(DpoConfig(), tmp_path), Data(pairs, pairs, [])
    with model.model.disable_adapter():
        reference = log_probs(job, model, data)
    metrics = evaluate(job, model, data, reference).metrics()
    assert (metrics["accuracy"], metrics["margin"]) == (0.5, 0)
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-12)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# β = 0.3, ε = 0.1, written from the papers; c and r are the log-ratios, n and m the answers' lengths.
B, E = 0.3, 0.1
FORMULAS = {
    "sigmoid": lambda c, r, n, m: -np.log(sigmoid(B * (c - r))),
    "sigmoid_norm": lambda c, r, n, m: -np.log(sigmoid(B * (c / n - r / m))),
    "hinge": lambda c, r, n, m: np.maximum(0, 1 - B * (c - r)),
    "ipo": lambda c, r, n, m: (c / n - r / m - 1 / (2 * B)) ** 2,
    "robust": lambda c, r, n, m: (
        (-(1 - E) * np.log(sigmoid(B * (c - r))) + E * np.log(sigmoid(-B * (c - r)))) / (1 - 2 * E)
    ),
    "exo_pair": lambda c, r, n, m: (
        sigmoid(B * (c - r)) * np.log(sigmoid(B * (c - r)) / (1 - E))
        + sigmoid(-B * (c - r)) * np.log(sigmoid(-B * (c - r)) / E)
    ),
    "nca_pair": lambda c, r, n, m: (
        -np.log(sigmoid(B * c)) - 0.5 * np.log(sigmoid(-B * c)) - 0.5 * np.log(sigmoid(-B * r))
    ),
    "sppo_hard": lambda c, r, n, m: (c - 0.5 / B) ** 2 + (r + 0.5 / B) ** 2,
    "apo_zero": lambda c, r, n, m: 1 - sigmoid(B * c) + sigmoid(B * r),
    "apo_down": lambda c, r, n, m: sigmoid(B * c) + 1 - sigmoid(B * (c - r)),
}


def test_every_loss_on_offer_is_tried():
    assert set(FORMULAS) == set(get_args(LossType))


@pytest.mark.parametrize("loss_type", FORMULAS)
def test_the_loss_is_that_of_its_paper_whatever_stands_beside_a_pair(loss_type, tokenizer, pairs, tmp_path):
    model = adapted(tokenizer, trained=True)
    smoothing = {"label_smoothing": E} if loss_type in SMOOTHED else {}
    trainer = make_trainer(model, pairs, tmp_path, loss_type=loss_type, beta=B, **smoothing)
    expected = FORMULAS[loss_type](*log_ratios(model, pairs))
    assert np.std(expected) > 0.01
    alone = [loss_of(trainer, [row]) for row in range(COUNT)]
    assert alone == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert loss_of(trainer, range(COUNT)) == pytest.approx(expected.mean(), rel=1e-4, abs=1e-5)
    trainer.data_collator.pad_to_multiple_of = 64
    assert loss_of(trainer, range(COUNT)) == pytest.approx(expected.mean(), rel=1e-4, abs=1e-5)


def test_the_reference_is_the_base_itself(tokenizer, pairs, tmp_path):
    model = adapted(tokenizer)
    parameters = sum(p.numel() for p in model.model.parameters())
    trainer = make_trainer(model, pairs, tmp_path)
    assert trainer.ref_model is None
    assert set(model.model.peft_config) == {"default"}
    assert sum(p.numel() for p in trainer.model.parameters()) == parameters
    assert trainer.data_collator.max_length is None  # else TRL would cut answers


def test_a_mixture_of_experts_is_trained_on_the_pairs_alone(tokenizer, pairs, tmp_path):
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, num_local_experts=2, output_router_logits=True, **shape, **ids
    )
    base = transformers.AutoModelForCausalLM.from_config(config)
    model = CausalLM(get_peft_model(base, lora_config(base, LoraSettings(r=4), "CAUSAL_LM")), tokenizer, POLICY)
    assert loss_of(make_trainer(model, pairs, tmp_path), range(COUNT)) == pytest.approx(math.log(2), abs=1e-7)


def trained(tokenizer, pairs, folder, **settings):
    """Curves, adapter and base weights after four steps."""
    model = adapted(tokenizer)
    fields = {"max_steps": 4, "train_batch_size": 12, "learning_rate": 1e-2, "beta": B, "logging_steps": 4}
    job = FakeJob(DpoConfig(**{**fields, **settings}), folder / "run")
    data = Data(pairs, pairs, [])
    train(job, model, data, log_probs(job, model, data))
    curves = [json.loads(line) for line in (job.work / "metrics.jsonl").read_text().splitlines()]
    return curves, {name: p.detach().clone() for name, p in model.model.named_parameters()}


@pytest.mark.parametrize(
    "settings",
    [{"per_device_train_batch_size": 1}, {"per_device_train_batch_size": 4, "activation_checkpointing": True}],
)
def test_training_does_not_depend_on_how_it_is_computed(settings, tokenizer, pairs, tmp_path):
    curves, weights = trained(tokenizer, pairs, tmp_path / "a", per_device_train_batch_size=12)
    other, others = trained(tokenizer, pairs, tmp_path / "b", **settings)
    assert curves[-1]["loss"] < 0.9 * curves[0]["loss"]
    for one, two in zip(curves, other, strict=True):
        assert two == pytest.approx({**one, "token_accuracy": two["token_accuracy"]}, rel=1e-3, abs=1e-4)
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-3), name


@pytest.mark.parametrize("loss_type", FORMULAS)
def test_every_loss_sets_chosen_above_rejected(loss_type, tokenizer, pairs, tmp_path):
    smoothing = {"label_smoothing": E} if loss_type in SMOOTHED else {}
    curves, _ = trained(tokenizer, pairs, tmp_path, loss_type=loss_type, per_device_train_batch_size=12, **smoothing)
    margins = [point["margin"] for point in curves]
    assert margins[0] == 0
    assert margins[-1] > 0.1


def test_training_leaves_the_base_as_it_was(tokenizer, pairs, tmp_path):
    before = dict(adapted(tokenizer).model.named_parameters())
    _, after = trained(tokenizer, pairs, tmp_path)
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {name for name in before if "lora_" in name}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora": None}, "dpo trains an adapter"),
        ({"lora": {"lora_dropout": 0.1}}, "lora_dropout must be 0"),
        ({"label_smoothing": 0.1}, "has no part in loss_type sigmoid"),
        ({"loss_type": "exo_pair"}, "exo_pair needs label_smoothing"),
        ({"loss_type": "aot"}, "Input should be 'sigmoid'"),
        ({"beta": 0}, "greater than 0"),
    ],
)
def test_settings_that_would_be_ignored_or_wrong_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        DpoConfig(**settings)
