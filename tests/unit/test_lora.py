"""LoRA computed in fewer passes: PEFT's numbers, forward and backward."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from components.common.lora import speed_up_lora
from components.common.trainables import lora_targets
from tests.support.models import FAMILIES, randomise_lora, tiny_model


@pytest.fixture(params=FAMILIES)
def model(request, tokenizer):
    base = tiny_model(request.param, tokenizer)
    # 7 / 4 is no power of two, so that where it is multiplied in can be seen.
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=7, target_modules=lora_targets(base))
    model = get_peft_model(base, config).eval()
    model.add_adapter("other", config)
    randomise_lora(model, "default")
    return model


def run(model, ids):
    """Logits, and gradients of something that depends on all of them."""
    logits = model(input_ids=ids).logits
    (logits.float().log_softmax(-1)[..., 5].sum() / 10).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), gradients


def alike(one, other):
    """Cosine of the angle between two tensors."""
    return torch.nn.functional.cosine_similarity(one.float().flatten(), other.float().flatten(), dim=0)


IDS = torch.arange(3, 3 + 24).view(2, 12)


def test_logits_and_gradients_are_pefts(model):
    fused = copy.deepcopy(model)
    speed_up_lora(fused)
    expected, wanted = run(model, IDS)
    logits, gradients = run(fused, IDS)
    assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == wanted.keys()
    assert gradients
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, wanted[name], rtol=1e-4, atol=1e-5 * wanted[name].abs().max()), name
    with torch.no_grad():
        assert torch.equal(fused(input_ids=IDS).logits, logits)


def test_an_adapter_that_is_zero_changes_no_bit(model):
    speed_up_lora(model)
    model.set_adapter("other")
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, logits)


def test_mixed_precision_gives_what_peft_gives(model):
    fused = copy.deepcopy(model)
    speed_up_lora(fused)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, wanted = run(model, IDS)
        logits, gradients = run(fused, IDS)
    assert logits.dtype == expected.dtype
    assert alike(logits, expected) > 0.999
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert alike(gradient, wanted[name]) > 0.98, name


def test_activations_may_be_recomputed(model):
    speed_up_lora(model)
    expected, wanted = run(model, IDS)
    model.train()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    logits, gradients = run(model, IDS)
    assert torch.equal(logits, expected)
    assert all(torch.allclose(gradients[name], wanted[name], rtol=1e-5, atol=1e-6) for name in wanted)
