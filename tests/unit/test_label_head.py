"""The loss at label positions is the plain loss: same value, same gradients, however it is cut, wrapped or shared."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from components.common import label_head as module
from components.common.label_head import label_head, label_loss
from components.common.trainables import float32_trainables, lora_config
from components.common.training import LoraSettings
from tests.support.models import FAMILIES, randomise_lora, tiny_model


def model_of(family, tokenizer, *, lora, tied=False):
    model = tiny_model(family, tokenizer, tie_word_embeddings=tied)
    if lora:
        model = get_peft_model(model, lora_config(model, LoraSettings(r=4), "CAUSAL_LM"))
        randomise_lora(model, "default")
    float32_trainables(model)
    return model.train()


def labels_and_inputs(tokenizer, rows=3, width=17):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tokenizer), (rows, width), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.4, ids, -100)
    return labels, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def plain_loss(model, labels, inputs):
    logits = model(**inputs, use_cache=False).logits.float()
    return nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(ours, plain, rtol=2e-5):
    assert ours.keys() == plain.keys()
    assert len(ours) > 0
    for name in plain:
        largest = plain[name].abs().max().item()
        torch.testing.assert_close(ours[name], plain[name], rtol=0, atol=rtol * largest + 1e-9, msg=name)


@pytest.mark.parametrize("at_once", [2**25, 1000])
@pytest.mark.parametrize(("lora", "tied"), [(True, False), (False, False), (False, True)], ids=["lora", "full", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_the_plain_ones(family, lora, tied, at_once, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)  # 1000: two or three positions of this vocabulary
    model = model_of(family, tokenizer, lora=lora, tied=tied)
    labels, inputs = labels_and_inputs(tokenizer)
    expected = plain_loss(model, labels, inputs)
    plain = gradients(model, expected)
    count = (labels[:, 1:] != -100).sum()
    with label_head(model):
        nll, correct = model(labels=labels, **inputs)
        ours = gradients(model, nll / count)
    assert nll.item() / count.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_equal(ours, plain)
    with torch.no_grad():
        best = model(**inputs).logits[:, :-1].argmax(-1)
    assert correct.item() == (best == labels[:, 1:]).sum().item()


@pytest.mark.parametrize("lora", [True, False])
def test_in_half_precision_a_scaled_loss_keeps_its_gradients(lora, tokenizer):
    model = model_of("llama", tokenizer, lora=lora)
    labels, inputs = labels_and_inputs(tokenizer)
    count, scale = (labels[:, 1:] != -100).sum(), 2.0**10
    with torch.autocast("cpu", dtype=torch.float16):
        plain = gradients(model, plain_loss(model, labels, inputs) * scale)
        with label_head(model):
            nll, _ = model(labels=labels, **inputs)
            assert nll.dtype == torch.float32
            ours = gradients(model, nll / count * scale)
    assert_equal(ours, plain, rtol=5e-3)


def test_only_label_positions_reach_the_head(tokenizer):
    model = model_of("llama", tokenizer, lora=False)
    labels, inputs = labels_and_inputs(tokenizer)
    seen = []
    model.lm_head.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:-1].numel()))
    with label_head(model):
        model(labels=labels, **inputs)
    assert sum(seen) == (labels[:, 1:] != -100).sum()


def test_a_micro_batch_without_labels_gives_zeros_for_all_gradients(tokenizer):
    """Another process, or another micro-batch, may have some: the gradients must be there to be summed."""
    model = model_of("llama", tokenizer, lora=True)
    labels, inputs = labels_and_inputs(tokenizer)
    with label_head(model):
        nll, correct = model(labels=torch.full_like(labels, -100), **inputs)
        found = gradients(model, nll)
    assert nll.item() == correct.item() == 0
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trainable
    assert all((gradient == 0).all() for gradient in found.values())


def test_heads_that_change_their_logits_do_so(tokenizer):
    from transformers import GraniteConfig, GraniteForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = GraniteForCausalLM(GraniteConfig(vocab_size=len(tokenizer), logits_scaling=4.0, **shape))
    labels, inputs = labels_and_inputs(tokenizer)
    hidden = model.model(**inputs).last_hidden_state
    count = (labels[:, 1:] != -100).sum()
    ours = label_loss(model, hidden, labels).nll / count
    assert ours.item() == pytest.approx(plain_loss(model, labels, inputs).item(), rel=1e-6)


def test_afterwards_the_model_gives_logits_again(tokenizer):
    model = model_of("llama", tokenizer, lora=True)
    labels, inputs = labels_and_inputs(tokenizer)
    before = model(**inputs).logits
    with pytest.raises(ZeroDivisionError), label_head(model):
        model(labels=labels, **inputs).nll.item() / 0
    assert torch.equal(model(**inputs).logits, before)
    assert model.generate(inputs["input_ids"][:, :4], max_new_tokens=2).shape == (3, 6)
