"""Decoding: a row's tokens depend on the row alone; left padding changes nothing; sampling follows the softmax."""

import dataclasses

import numpy as np
import pytest
import torch

from components.common.device import device_policy
from components.common.generation import Sampling, generate
from components.common.kv_cache import RoomyLayer
from tests.support.models import FAMILIES, tiny_model

POLICY = device_policy()
TEXTS = ["What did the cow say?", "the", "cow pig duck hen owl frog sheep horse mouse", "said oink in the tower"]


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [np.asarray(tokenizer(text)["input_ids"]) for text in TEXTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_transformers_one_by_one(family, tokenizer, prompts):
    model = tiny_model(family, tokenizer)
    stop = tokenizer.eos_token_id
    ours = generate(model, prompts, Sampling(12, (stop,)), POLICY)
    for prompt, written in zip(prompts, ours, strict=True):
        theirs = model.generate(
            input_ids=torch.tensor(prompt)[None], max_new_tokens=12, do_sample=False, eos_token_id=stop, pad_token_id=0
        )
        assert written.tolist() == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_does_not_depend_on_its_batch(family, tokenizer, prompts):
    model = tiny_model(family, tokenizer)
    sampling = Sampling(10, (tokenizer.eos_token_id,), temperature=1.0, seed=3, step=7)
    together = generate(model, prompts, sampling, POLICY)
    apart = [generate(model, [p], sampling, POLICY, keys=[(i,)])[0] for i, p in enumerate(prompts)]
    reversed_ = generate(model, prompts[::-1], sampling, POLICY, keys=[(3,), (2,), (1,), (0,)])[::-1]
    for one, two, three in zip(together, apart, reversed_, strict=True):
        assert one.tolist() == two.tolist() == three.tolist()


def test_other_steps_seeds_and_keys_draw_other_numbers(tokenizer, prompts):
    model = tiny_model("llama", tokenizer)

    def drawn(**changes):
        sampling = Sampling(16, (), temperature=1.0, **{"seed": 1, "step": 1, **changes})
        return generate(model, prompts[:1], sampling, POLICY)[0].tolist()

    assert drawn() == drawn()
    assert len({tuple(drawn()), tuple(drawn(step=2)), tuple(drawn(seed=2)), tuple(drawn(step=-1))}) == 4


def test_rows_end_at_the_stop_token_or_the_limit(tokenizer, prompts):
    model = tiny_model("llama", tokenizer)
    free = generate(model, prompts, Sampling(20, ()), POLICY)
    assert {len(row) for row in free} == {20}
    stop = int(free[0][5])
    stopped = generate(model, prompts, Sampling(20, (stop,)), POLICY)
    for whole, cut in zip(free, stopped, strict=True):
        places = np.flatnonzero(whole == stop)
        length = places[0] + 1 if len(places) else 20
        assert cut.tolist() == whole[:length].tolist()


def test_samples_follow_the_softmax(tokenizer, prompts):
    model = tiny_model("llama", tokenizer)
    count, temperature = 4000, 0.7
    sampling = Sampling(1, (), temperature=temperature)
    written = generate(model, [prompts[0]] * count, sampling, POLICY, max_tokens=10**6)
    with torch.no_grad():
        expected = (model(torch.tensor(prompts[0])[None]).logits[0, -1] / temperature).softmax(-1).numpy()
    seen = np.bincount([int(row[0]) for row in written], minlength=len(expected)) / count
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected / count) + 1 / count).all()


def test_the_model_is_left_as_it_was(tokenizer, prompts):
    model = tiny_model("llama", tokenizer).train()
    generate(model, prompts, Sampling(3, (), temperature=1.0), POLICY)
    assert model.training


def test_the_cache_with_room_holds_what_that_of_transformers_holds():
    from transformers.cache_utils import DynamicLayer

    generator = torch.Generator().manual_seed(0)
    roomy, plain = RoomyLayer(room=3), DynamicLayer()
    for tokens, kept in ((5, [0, 1, 3]), (1, [0, 1, 2]), (1, [1, 2]), (1, [0, 1])):
        rows = 4 if tokens == 5 else roomy.keys.shape[0]
        keys, values = (torch.randn(rows, 2, tokens, 8, generator=generator) for _ in range(2))
        for ours, theirs in zip(roomy.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(ours, theirs)
        assert roomy.get_seq_length() == plain.get_seq_length()
        for layer in (roomy, plain):
            layer.batch_select_indices(torch.tensor(kept))
        assert torch.equal(roomy.keys, plain.keys)
        assert torch.equal(roomy.values, plain.values)
    assert roomy.keys.data_ptr() == roomy.update(keys[:2, :, :0], values[:2, :, :0])[0].data_ptr()


@pytest.mark.parametrize("changes", [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 8, "top_p": 0.7}, {"top_k": 10**6}])
def test_top_k_and_top_p_leave_what_transformers_leaves(tokenizer, prompts, changes):
    from transformers import GenerationConfig, LogitsProcessorList

    model = tiny_model("llama", tokenizer)
    count, temperature = 4000, 1.5
    sampling = Sampling(1, (), temperature=temperature, **changes)
    written = generate(model, [prompts[0]] * count, sampling, POLICY, max_tokens=10**6)
    with torch.no_grad():
        logits = model(torch.tensor(prompts[0])[None]).logits[:, -1]
    config = GenerationConfig(do_sample=True, temperature=temperature, **{"top_k": 0, **changes})
    warpers: LogitsProcessorList = model._get_logits_processor(config)
    expected = warpers(torch.tensor(prompts[0])[None], logits)[0].softmax(-1).numpy()
    seen = np.bincount([int(row[0]) for row in written], minlength=len(expected)) / count
    assert (seen[expected == 0] == 0).all()
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected / count) + 1e-9).all()


def test_a_row_ends_where_the_models_positions_end(tokenizer, prompts):
    model = tiny_model("llama", tokenizer)
    sampling = Sampling(12, (), temperature=1.0)
    limit = max(map(len, prompts)) + 1
    free = generate(model, prompts, sampling, POLICY)
    cut = generate(model, prompts, dataclasses.replace(sampling, max_positions=limit), POLICY)
    for prompt, whole, row in zip(prompts, free, cut, strict=True):
        assert row.tolist() == whole[: limit - len(prompt)].tolist()
    assert min(map(len, cut)) == 1


def test_tokens_are_watched_as_they_come(tokenizer, prompts):
    model = tiny_model("llama", tokenizer)
    seen = [[] for _ in prompts]
    sampling = Sampling(6, (tokenizer.eos_token_id,), temperature=1.0)
    written = generate(
        model, prompts, sampling, POLICY, max_tokens=24, watch=lambda row, token: seen[row].append(token)
    )
    assert seen == [row.tolist() for row in written]
