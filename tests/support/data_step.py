"""The data step on the toy world: what its tests begin with."""

import json

from components.data.__main__ import main
from tests.support import toy
from tests.support.models import tiny_config


def make_world(tmp_path, tokenizer):
    """A model folder with a tokenizer, the toy world's sources, and a function that runs the step."""
    model = tmp_path / "model"
    tokenizer.save_pretrained(model)
    tiny_config("llama", tokenizer).save_pretrained(model)
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**fields, "architectures": ["LlamaForCausalLM"]}))
    toy.write_sources(tmp_path / "sources", 0, {})

    def run(data, *arguments, seed=0):
        config = tmp_path / "run.yaml"
        config.write_text(json.dumps({"data": data, "seed": seed}))
        given = ["--config", str(config), "--input", f"model={model}", "--output", str(tmp_path / "store")]
        return main([*given, *arguments])

    run.sources = tmp_path / "sources"
    run.store = tmp_path / "store"
    return run


def dataset(world, task):
    """The dataset that the step has made of a part, and its report."""
    (found,) = (world.store / "artifacts" / f"data-{task}").iterdir()
    return found, json.loads((found / "report.json").read_text())
