"""The model that `rlhf generate` is given: merged, or an adapter on its base; others are refused."""

import shutil

import pytest

from components.common.errors import InputError, UserError
from components.common.models import load_causal_lm
from components.inference.load import load_language_model
from components.inference.source import find_model
from tests.support.generating import POLICY, run


def test_an_adapter_finds_its_base_and_answers_as_the_merged_model(trained, prompts, tmp_path):
    merged = run(trained.policy, prompts, tmp_path / "m.jsonl")
    adapter = run(trained.policy_adapter, prompts, tmp_path / "a.jsonl")
    base = run(trained.base, prompts, tmp_path / "b.jsonl")
    assert adapter == merged
    assert base != merged


def test_the_loaded_adapter_is_pefts(trained):
    import torch
    from peft import PeftModel

    source = find_model(trained.policy_adapter, "generate")
    ours = load_language_model(source).model
    theirs = PeftModel.from_pretrained(load_causal_lm(source.weights, POLICY), source.adapter)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_a_model_for_another_task_or_none_at_all_is_refused(trained, prompts, tmp_path):
    out = tmp_path / "o.jsonl"
    for uri in (trained.reward, trained.reward_adapter):
        with pytest.raises(UserError, match="is a reward model: it scores answers and writes none"):
            run(uri, prompts, out)
    with pytest.raises(InputError, match="neither an artifact nor a folder"):
        run(str(tmp_path), prompts, out)
    with pytest.raises(UserError, match="--base is for adapters"):
        run(trained.policy, prompts, out, base=trained.base)
    with pytest.raises(InputError, match="was trained on"):
        run(trained.policy_adapter, prompts, out, base=trained.policy)


def test_a_plain_adapter_needs_its_base_and_an_altered_one_is_named(trained, prompts, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(trained.policy_adapter, adapter)
    out = tmp_path / "o.jsonl"
    with pytest.raises(UserError, match="does not say what it stands on; give --base"):
        run(str(adapter), prompts, out)
    assert run(str(adapter), prompts, out, base=trained.base) == run(trained.policy, prompts, tmp_path / "m.jsonl")
    copied = tmp_path / "store"
    shutil.copytree(trained.store.root, copied)
    weights = copied / "artifacts" / "base" / "k" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="was altered"):
        run(str(copied / "artifacts" / "sft" / "k"), prompts, tmp_path / "p.jsonl")
    shutil.rmtree(weights.parent)
    with pytest.raises(InputError, match="as --base"):
        run(str(copied / "artifacts" / "sft" / "k"), prompts, tmp_path / "p.jsonl")
