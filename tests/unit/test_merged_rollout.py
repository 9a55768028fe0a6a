"""The policy writes with its adapter folded into the base; then the base is what it was, bit by bit."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from components.common.device import device_policy
from components.common.generation import Sampling, generate
from components.common.lora import speed_up_lora
from components.common.trainables import lora_targets
from components.rl.config import RlConfig
from components.rl.roles import Roles
from tests.support.models import FAMILIES, randomise_lora, tiny_model

POLICY = device_policy()
IDS = torch.arange(3, 27).view(2, 12)


def make_roles(family, tokenizer, *, merged_rollout, targets=None, dtype=torch.float32):
    torch.manual_seed(0)
    base = tiny_model(family, tokenizer).to(dtype)
    # Rank-stabilised, so that the scaling is not the plain quotient.
    lora = LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=targets or lora_targets(base))
    model = get_peft_model(base, lora, adapter_name="policy").eval()
    model.add_adapter("critic", copy.deepcopy(lora))
    randomise_lora(model, "policy", seed=3, scale=0.2)
    randomise_lora(model, "critic", seed=4, scale=0.2)
    speed_up_lora(model)
    head = torch.zeros(1, base.config.hidden_size)
    return Roles(model, nn.Linear(head.shape[1], 1), head, POLICY, 1.0, merged_rollout=merged_rollout)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def state(roles):
    return {name: value.clone() for name, value in roles.model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folded_policy_computes_what_the_policy_does(family, tokenizer):
    roles = make_roles(family, tokenizer, merged_rollout=True)
    with roles.use("policy") as model:
        expected = logits(model)
    with roles.use("reference") as model:
        assert (logits(model) - expected).abs().max() > 0.01  # the adapter matters
    with roles.writing() as model:
        assert torch.allclose(logits(model), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_all_weights_are_what_they_were_bit_by_bit(dtype, tokenizer):
    roles = make_roles("llama", tokenizer, merged_rollout=True, dtype=dtype)
    before = state(roles)
    changed = {}
    for _ in range(2):
        with roles.writing():
            changed = {name for name, value in state(roles).items() if not torch.equal(value, before[name])}
        assert all(torch.equal(value, before[name]) for name, value in state(roles).items())
    assert changed == {name for name in before if name.endswith("base_layer.weight")}


def test_a_failure_in_the_middle_leaves_nothing_folded(tokenizer):
    roles = make_roles("llama", tokenizer, merged_rollout=True)
    before = state(roles)
    with pytest.raises(KeyError), roles.writing():
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in state(roles).items())
    with roles.use("policy") as model:
        policy = logits(model)
    with roles.use("reference") as model:
        assert not torch.equal(logits(model), policy)


def test_other_roles_follow_as_without_it(tokenizer):
    """Adapters are switched layer by layer: a role entered after a rollout must find its own."""
    folded, plain = (make_roles("qwen2", tokenizer, merged_rollout=merged) for merged in (True, False))
    for roles in (folded, plain):
        with roles.writing():
            pass
    for role in ("reference", "critic", "policy"):
        with folded.use(role) as one, plain.use(role) as other:
            assert torch.equal(logits(one), logits(other)), role


def test_a_head_tied_to_the_embedding_keeps_its_adapter(tokenizer):
    """Folded into the head, the adapter would change what the tokens mean."""
    roles = make_roles("bloom", tokenizer, merged_rollout=True, targets=["query_key_value", "lm_head"])
    embedding, head = roles.model.get_input_embeddings().weight, roles.model.get_base_model().lm_head
    assert head.base_layer.weight is embedding
    before = embedding.detach().clone()
    with roles.use("policy") as model:
        expected = logits(model)
    with roles.writing() as model:
        assert torch.equal(embedding, before)
        assert torch.allclose(logits(model), expected, atol=1e-5)


def test_the_same_completions_are_written(tokenizer):
    prompts = [IDS[0, :5].numpy(), IDS[1, :9].numpy()]
    sampling = Sampling(8, (-1,), 1.0, seed=1, step=0)
    written = []
    for merged in (True, False):
        with make_roles("llama", tokenizer, merged_rollout=merged).writing() as model:
            answers = generate(model, prompts, sampling, POLICY, max_tokens=10**6, keys=[(0, 0), (1, 0)])
            written.append([ids.tolist() for ids in answers])
    assert written[0] == written[1]


def test_weights_in_4_bits_are_refused():
    with pytest.raises(ValueError, match="merged_rollout cannot fold an adapter into weights in 4 bits"):
        RlConfig(merged_rollout=True, load_in_4bit=True)
