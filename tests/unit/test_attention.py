"""Grouped-query attention goes to a fused kernel on a T4, too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations import sdpa_attention

from components.common.attention import keep_attention_fused
from components.common.device import DevicePolicy

T4 = DevicePolicy(torch.device("cuda"), torch.float16)


@pytest.mark.parametrize(("capability", "grouped"), [((7, 5), False), ((8, 0), True)])
def test_keys_are_repeated_where_there_is_no_flash_attention(capability, grouped, monkeypatch):
    monkeypatch.setattr(sdpa_attention, "use_gqa_in_sdpa", sdpa_attention.use_gqa_in_sdpa)  # put back afterwards
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    seen = {}

    def attend(query, key, value, **options):
        seen.update(heads=key.shape[1], grouped=options.get("enable_gqa", False), causal=options["is_causal"])
        return query

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    keep_attention_fused(T4)
    query, key = torch.zeros(1, 8, 6, 4), torch.zeros(1, 2, 6, 4)
    sdpa_attention.sdpa_attention_forward(SimpleNamespace(num_key_value_groups=4), query, key, key, None)
    assert seen == {"heads": 2 if grouped else 8, "grouped": grouped, "causal": True}


def test_a_cpu_is_left_alone(monkeypatch):
    before = sdpa_attention.use_gqa_in_sdpa
    keep_attention_fused(DevicePolicy(torch.device("cpu"), torch.float32))
    assert sdpa_attention.use_gqa_in_sdpa is before
