"""Four families through the whole chain: bases that were really trained, every stage learns, every merge is faithful.

The stages run in this process, by their own command lines: starting a process for each would take longer than all else.
"""

from __future__ import annotations

import functools
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from components.common.entry import stage_main
from components.common.manifest import Manifest
from components.common.stage import make_plan
from components.data.__main__ import main as data_main
from components.data.table import TokenTable
from components.prepare.__main__ import main as prepare_main
from components.reward.parity import load_parity
from tests.stages.conftest import TOY, shared_folder

TIED = {"llama": False, "qwen2": False, "qwen3": True, "bloom": True}
SETTINGS = """
model:
  scratch:
    vocab_size: 384
    hidden_size: 48
    max_length: 64
    train: {max_steps: 120, train_batch_size: 12, per_device_train_batch_size: 12, logging_steps: 120}
data: {heldout: 0.4, pretrain: {max_length: 64}, sft: {max_length: 64}}
pretrain: {max_steps: 20, train_batch_size: 12, per_device_train_batch_size: 12, logging_steps: 20}
sft: {max_steps: 50, train_batch_size: 4, per_device_train_batch_size: 4, num_eval_prompts: 32, logging_steps: 50}
reward: {max_steps: 80, train_batch_size: 16, per_device_train_batch_size: 16, logging_steps: 80}
rl: {max_steps: 80, reward_functions: [], num_eval_prompts: 200, logging_steps: 80}
"""
# A row holds one sequence, and no two of them share a micro-batch: more rows for about as many tokens.
ONE_ROW = "\n".join(
    [f"{stage}.per_device_train_batch_size=1" for stage in ("model.scratch.train", "pretrain", "sft")]
    + ["model.scratch.train.max_steps=150", "sft.train_batch_size=8"]
)


@dataclass(frozen=True)
class Chain:
    """A finished chain.

    Attributes:
        family: Of its models.
        folders: Folder of each artifact by step.
    """

    family: str
    folders: dict[str, Path]

    def manifest(self, step: str) -> Manifest:
        return Manifest.model_validate_json((self.folders[step] / "manifest.json").read_bytes())

    def metrics(self, step: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Before and after."""
        metrics = self.manifest(step).metrics
        return metrics["before"], metrics["after"]


@pytest.fixture(scope="module", params=TIED)
def chain(request, tmp_path_factory) -> Chain:
    """Made once; a worker that asks for it again, or another, finds every stage finished."""
    folder = shared_folder(tmp_path_factory, request.param)
    with FileLock(folder / "lock"):
        return run_chain(request.param, folder / "store")


def run_chain(family: str, store: Path) -> Chain:
    """Makes a base and takes it through PT → SFT → RM → RL, with a merge after each."""
    overrides = f"model.scratch.model_type={family}\nmodel.scratch.tie_word_embeddings={TIED[family]}"
    arguments = ["--preset", TOY, "--config", SETTINGS, "--output", str(store), "--run-id", family]
    arguments += ["--overrides", f"{overrides}\n{ONE_ROW}" if family == "bloom" else overrides]
    assert prepare_main(arguments) == 0
    config = store / "runs" / family / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    base = Path(settings["model"]["source"])
    common = ["--config", str(config), "--output", str(store)]

    def run(name: str, **inputs: Path) -> Path:
        uris = {role: str(folder) for role, folder in inputs.items()}
        given = [part for role, uri in uris.items() for part in ("--input", f"{role}={uri}")]
        spec = importlib.import_module(f"components.{name}.config").SPEC
        assert stage_main(spec, functools.partial(_run_of, name), [*common, *given]) == 0
        return Path(make_plan(spec, settings, str(config), uris, str(store)).uri)

    assert data_main([*common, "--input", f"model={base}"]) == 0
    datasets = {path.parent.name: path for path in store.glob("artifacts/data-*/*")}
    folders = {"base": base, **datasets}
    model = base
    for stage in ("pretrain", "sft"):
        folders[stage] = run(stage, model=model, dataset=datasets[f"data-{stage}"])
        model = folders[f"merge-{stage}"] = run("merge", base=model, adapter=folders[stage])
    folders["reward"] = run("reward", model=model, dataset=datasets["data-reward"])
    folders["merge-reward"] = run("merge", base=model, adapter=folders["reward"])
    folders["rl"] = run("rl", model=model, reward=folders["reward"], dataset=datasets["data-rl"])
    folders["merge-rl"] = run("merge", base=model, adapter=folders["rl"])
    return Chain(family, folders)


def _run_of(stage: str) -> Any:
    return importlib.import_module(f"components.{stage}.stage").run


def test_the_base_and_every_stage_learn_on_held_out_data(chain):
    before, after = chain.metrics("base")
    assert after["perplexity"] < 0.02 * before["perplexity"]
    before, after = chain.metrics("pretrain")
    assert after["perplexity"] < 0.6 * before["perplexity"]
    before, after = chain.metrics("sft")
    assert after["loss"] < 0.5 * before["loss"]
    before, after = chain.metrics("reward")
    assert before["accuracy"] == 0.5
    assert after["accuracy"] > 0.75
    assert chain.manifest("rl").metrics["reward_gain"]["low"] > 0


MERGES = {
    "merge-pretrain": ("base", "pretrain"),
    "merge-sft": ("merge-pretrain", "sft"),
    "merge-rl": ("merge-sft", "rl"),
}


@pytest.mark.parametrize("step", MERGES)
def test_a_merged_model_loads_as_a_plain_one_and_answers_as_base_and_adapter_do(chain, step):
    base, adapter = (chain.folders[name] for name in MERGES[step])
    merged, info = AutoModelForCausalLM.from_pretrained(chain.folders[step], output_loading_info=True)
    assert not any(info.values()), info
    assert merged.config.model_type == chain.family
    tokenizer = AutoTokenizer.from_pretrained(chain.folders[step])
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(chain.folders["base"]).chat_template
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    prompts = TokenTable.load(chain.folders["data-rl"] / "heldout")
    rows = [prompts.ids(i).tolist() for i in range(8)]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="left")
    written = [model.generate(**batch, max_new_tokens=8, do_sample=False).tolist() for model in (merged, adapted)]
    assert written[0] == written[1]
    with torch.no_grad():
        apart = merged(**batch).logits - adapted(**batch).logits
        with adapted.disable_adapter():
            moved = merged(**batch).logits - adapted(**batch).logits
    real = batch["attention_mask"].bool()
    assert apart[real].abs().max() < 1e-3
    assert moved[real].abs().max() > 0.1  # what the adapter learnt is much more than that


def test_the_merged_reward_model_loads_as_a_plain_one_and_scores_as_base_and_adapter_do(chain):
    folder = chain.folders["merge-reward"]
    merged, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    base = AutoModelForSequenceClassification.from_pretrained(chain.folders["merge-sft"], num_labels=1)
    adapted = PeftModel.from_pretrained(base, chain.folders["reward"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base.config.pad_token_id = tokenizer.pad_token_id
    rows = [ids.tolist() for ids in load_parity(folder).sequences[:12]]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        scores, expected = (model(**batch).logits.squeeze(-1) for model in (merged, adapted))
    assert torch.allclose(scores, expected, atol=1e-3)
    assert expected.std() > 0.1


def test_sequences_share_a_row_only_where_attention_can_stop_at_their_borders(chain):
    for task in ("pretrain", "sft"):
        table = TokenTable.load(chain.folders[f"data-{task}"] / "train")
        longest = max(len(table.rows.row(row)) for row in range(len(table.rows)))
        assert (longest == 1) == (chain.family == "bloom")


def test_all_stages_adapt_the_same_layers_and_none_a_head(chain):
    stages = ("pretrain", "sft", "reward", "rl")
    targets = [json.loads((chain.folders[s] / "adapter_config.json").read_text())["target_modules"] for s in stages]
    assert all(found == targets[0] for found in targets)
    assert ("query_key_value" if chain.family == "bloom" else "q_proj") in targets[0]
    assert not {"lm_head", "score"} & set(targets[0])


@pytest.mark.parametrize("step", ["base", *MERGES])
def test_tied_embeddings_stay_one_tensor_and_untied_ones_two(chain, step):
    with safe_open(chain.folders[step] / "model.safetensors", "np") as file:
        assert ("lm_head.weight" in file.keys()) != TIED[chain.family]  # noqa: SIM118, it is no dict
    config = json.loads((chain.folders[step] / "config.json").read_text())
    assert config["tie_word_embeddings"] == TIED[chain.family]


def test_rl_makes_as_many_rollout_batches_as_asked_for(chain):
    assert len((chain.folders["rl"] / "metrics.jsonl").read_text().splitlines()) == 80
