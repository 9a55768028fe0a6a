"""The merged numbers against float64, against PEFT and against the unmerged model, for every family, task and type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from components.merge.adapter import scale_of
from tests.support.merging import (
    FAMILIES,
    FRACTION_BITS,
    TEMPLATE,
    VOCABULARY,
    WIDE,
    check_logits,
    check_numbers,
    deltas,
    load,
    make_pair,
    merge,
    raw,
    ulp,
    weights,
)


@pytest.mark.parametrize("dtype", FRACTION_BITS, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merge(family: str, tied: bool, task: str, dtype: torch.dtype, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, family, task, tied, dtype)
    out = tmp_path / "merged"
    result = merge(pair, out)
    assert result.kind == ("reward_model" if task == "SEQ_CLS" else "model")
    check_numbers(pair, out, {"": 1.5})
    assert ("lm_head.weight" in weights(out)) == (task == "CAUSAL_LM" and not tied)
    model = load(out, task, dtype="auto")
    assert model.dtype == dtype
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.chat_template, tokenizer.pad_token_id, len(tokenizer)) == (TEMPLATE, 1, VOCABULARY)
    if dtype == torch.float32:
        check_logits(pair, model)


@pytest.mark.parametrize("dtype", FRACTION_BITS, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({"use_rslora": True}, {"": 3.0}),
        ({"rank_pattern": {"q_proj": 8}}, {"q_proj": 0.75, "": 1.5}),
        (
            {"alpha_pattern": {"layers.1.mlp.up_proj": 2, "q_proj": 16, "[a-q]_proj": 3}},
            # PEFT saves patterns sorted and takes the first that matches: [a-q]_proj hides q_proj
            {"1.mlp.up_proj": 0.5, ".o_proj": 0.75, "k_proj": 0.75, "q_proj": 0.75, "": 1.5},
        ),
        ({"rank_pattern": {"o_proj": 9}, "use_rslora": True}, {"o_proj": 2.0, "": 3.0}),
    ],
    ids=["rslora", "rank", "alpha", "rank-rslora"],
)
def test_scales(
    options: dict[str, Any], scales: dict[str, float], task: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, task=task, dtype=dtype, **options)
    merge(pair, tmp_path / "merged")
    check_numbers(pair, tmp_path / "merged", scales)
    if dtype == torch.float32:
        check_logits(pair, load(tmp_path / "merged", task))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_adapter_in_half_precision(stored: torch.dtype, tmp_path: Path) -> None:
    """Its factors are widened before they are multiplied."""
    pair = make_pair(tmp_path, dtype=torch.float16)
    path = pair.adapter / "adapter_model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in load_file(path).items()}, path)
    merge(pair, tmp_path / "merged")
    check_numbers(pair, tmp_path / "merged", {"": 1.5})


@pytest.mark.parametrize(
    "key",
    [
        "q_proj",
        "layers.1.self_attn.q_proj",
        "proj",
        "self_attn.*",
        "^model.*k_proj",
        ".*",
        "model.layers.[0-1].mlp",
        "1.self_attn.q_proj",
    ],
)
def test_patterns_match_as_in_peft(key: str) -> None:
    for module in (
        "model.layers.0.self_attn.q_proj",
        "model.layers.11.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "lm_head",
    ):
        ranks = {"v_proj": 2, key: 16}
        expected = ranks.get(get_pattern_key(list(ranks), module), 4)
        assert scale_of(module, {"r": 4, "lora_alpha": 4, "rank_pattern": ranks}) == (expected, 4 / expected)


def test_the_result_does_not_depend_on_workers_or_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide enough for several blocks and for a product that two BLAS threads round differently from one."""
    monkeypatch.setitem(FAMILIES, "llama", WIDE | {"hidden_size": 256, "intermediate_size": 1100})
    pair = make_pair(tmp_path, r=16)
    merge(pair, tmp_path / "1", workers=1)
    expected = (tmp_path / "1" / "model.safetensors").read_bytes()
    for name, value in (("OMP_NUM_THREADS", "2"), ("OPENBLAS_NUM_THREADS", "2"), ("GOTO_NUM_THREADS", "2")):
        monkeypatch.setenv(name, value)
    for workers in (1, 2, 3):
        out = tmp_path / f"threads{workers}"
        merge(pair, out, workers=workers)
        assert (out / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [(torch.bfloat16, torch.float16), (torch.float16, torch.float32), (torch.float32, torch.float16)],
    ids=["bf16-fp16", "fp16-fp32", "fp32-fp16"],
)
def test_conversion(stored: torch.dtype, wanted: torch.dtype, tmp_path: Path) -> None:
    """Every tensor is converted, sums are rounded only once, and the configuration says the new type."""
    pair = make_pair(tmp_path, "qwen2", dtype=stored)
    out = tmp_path / "merged"
    merge(pair, out, dtype=str(wanted).removeprefix("torch."))
    before, after = weights(pair.base), weights(out)
    updates = deltas(pair, {"": 1.5})
    for name, tensor in after.items():
        assert tensor.dtype == wanted
        if name.removesuffix(".weight") not in updates:
            assert raw(tensor) == raw(before[name].to(wanted))
            continue
        update, terms = updates[name.removesuffix(".weight")]
        exact = before[name].double() + update
        in_float32 = 2.0**-24 * (10 * terms + exact.abs())
        assert ((tensor.double() - exact).abs() <= ulp(exact, wanted) / 2 * (1 + 1e-9) + in_float32).all()
    assert load(out, "CAUSAL_LM", dtype="auto").dtype == wanted
