"""Models by their configurations alone, and plans for them."""

from __future__ import annotations

import json

from components.prepare.config import RunConfig
from pipelines.plan.base import read_base
from pipelines.plan.report import plan_run
from pipelines.plan.t4 import GIB, Gpu

LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "torch_dtype": "float16",
}
LLAMA_1B = {
    **LLAMA_7B,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
}


def folder_of(fields, path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(fields))
    return str(path)


def plan(fields, tmp_path, memory=14.5, pipeline="rlhf", **changes):
    source = folder_of(fields, tmp_path / "model")
    config = RunConfig.model_validate({"model": {"source": source}, **changes})
    return plan_run(read_base(config.model), config, pipeline, Gpu(memory=memory * GIB))
