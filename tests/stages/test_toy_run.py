"""A whole run: every stage learns, every artifact loads as a plain model, nothing is done twice."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from components.common.artifacts import verify
from components.data.table import TokenTable
from components.reward.parity import load_parity
from tests.stages.conftest import TOY
from tests.support.commands import rlhf

MODELS = ("prepare", "merge-pretrain", "merge-sft", "merge-rl")


def test_pretraining_lowers_perplexity(toy_run):
    metrics = toy_run.metrics("pretrain")
    assert metrics["after"]["perplexity"] < 0.5 * metrics["before"]["perplexity"]


def test_fine_tuning_lowers_loss_and_teaches_answers(toy_run):
    metrics = toy_run.metrics("sft")
    assert metrics["after"]["loss"] < 0.5 * metrics["before"]["loss"]
    assert metrics["before"]["exact_match"] < 0.1
    assert metrics["after"]["exact_match"] > 0.5


def test_the_reward_model_starts_with_ties_and_learns_the_order(toy_run):
    metrics = toy_run.metrics("reward")
    assert metrics["before"]["accuracy"] == 0.5
    assert metrics["after"]["accuracy"] > 0.8
    assert metrics["after"]["margin"] > 0.5


def test_reinforcement_learning_raises_reward(toy_run):
    metrics = toy_run.metrics("rl")
    assert metrics["reward_gain"]["low"] > 0
    assert metrics["exact_gain"]["low"] > -0.1


def test_rl_starts_at_its_reference(toy_run):
    assert toy_run.curve("rl", "kl")[0] == 0
    assert toy_run.curve("rl", "kl_k3")[0] == 0
    assert all(value >= 0 for value in toy_run.curve("rl", "kl_k3"))
    assert toy_run.metrics("rl")["before"]["kl"] == 0


def test_the_merged_policy_answers_as_the_adapter_did(toy_run):
    answers = {}
    for step in ("rl", "evaluate"):
        lines = (toy_run.folder(step) / "samples.jsonl").read_text().splitlines()
        answers[step] = {sample["prompt"]: sample["answer"] for sample in map(json.loads, lines)}
    common = answers["rl"].keys() & answers["evaluate"].keys()
    assert len(common) == 8
    assert all(answers["rl"][prompt] == answers["evaluate"][prompt] for prompt in common)
    assert toy_run.metrics("evaluate")["exact"]["gain"]["low"] > 0


@pytest.mark.parametrize("step", MODELS)
def test_every_model_loads_offline_as_a_plain_model(toy_run, step):
    folder = toy_run.folder(step)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    turns = [{"role": "user", "content": "What did Bada the cow say?"}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert written.shape[1] > inputs["input_ids"].shape[1]
    assert not (folder / "adapter_config.json").exists()


def test_the_merged_reward_model_scores_as_the_adapter_did(toy_run):
    folder = toy_run.folder("merge-reward")
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    parity = load_parity(folder)
    assert len(parity.scores) == 100
    with torch.no_grad():
        scores = np.asarray([model(torch.tensor(ids)[None]).logits.item() for ids in parity.sequences])
    assert np.abs(scores - parity.scores).max() <= 1e-4
    assert (
        np.argsort(scores[:50] - scores[50:]).tolist() == np.argsort(parity.scores[:50] - parity.scores[50:]).tolist()
    )


def test_a_padded_batch_scores_as_single_rows_do(toy_run):
    folder = toy_run.folder("merge-reward")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [ids.tolist() for ids in load_parity(folder).sequences[:6]] + [[5, 6, tokenizer.eos_token_id]]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        together = model(**batch).logits.squeeze(-1)
        alone = torch.stack([model(torch.tensor(row)[None]).logits.squeeze() for row in rows])
    assert torch.allclose(together, alone, atol=1e-4)


def test_lineage_leads_from_the_final_model_to_the_base(toy_run):
    digests = {step: toy_run.manifest(step).digest for step in toy_run.steps if step not in ("data", "report")}
    chain = [
        ("pretrain", "model", "prepare"),
        ("merge-pretrain", "base", "prepare"),
        ("merge-pretrain", "adapter", "pretrain"),
        ("sft", "model", "merge-pretrain"),
        ("merge-sft", "adapter", "sft"),
        ("reward", "model", "merge-sft"),
        ("merge-reward", "adapter", "reward"),
        ("rl", "model", "merge-sft"),
        ("rl", "reward", "reward"),
        ("merge-rl", "base", "merge-sft"),
        ("merge-rl", "adapter", "rl"),
        ("evaluate", "before", "prepare"),
    ]
    for child, name, parent in chain:
        assert toy_run.manifest(child).parents[name].digest == digests[parent], (child, name)


def test_every_artifact_verifies_and_nothing_else_lies_about(toy_run):
    for manifest in (toy_run.store / "artifacts").glob("*/*/manifest.json"):
        from components.common.manifest import Manifest

        verify(manifest.parent, Manifest.model_validate_json(manifest.read_bytes()))
    assert list((toy_run.store / ".scratch").iterdir()) == []


def test_one_tokenizer_and_template_all_the_way(toy_run):
    identities = {json.dumps(toy_run.manifest(s).tokenizer, sort_keys=True) for s in (*MODELS, "pretrain", "sft", "rl")}
    assert len(identities) == 1
    assert toy_run.manifest("sft").tokenizer


def test_held_out_prompts_were_never_trained_on(toy_run):
    trained = TokenTable.load(toy_run.dataset("sft") / "train")
    heldout = TokenTable.load(toy_run.dataset("rl") / "heldout")
    prompts = {tuple(heldout.ids(i)) for i in range(len(heldout))}
    seen = {tuple(trained.ids(i)[: len(p)]) for p in prompts for i in range(len(trained))}
    assert not prompts & seen


def test_tensorboard_and_progress_lines_are_there(toy_run):
    for stage in ("pretrain", "sft", "reward", "rl"):
        assert list((toy_run.store / "work" / stage).rglob("events.out.tfevents.*")), stage
    assert "sft step 40/80 loss" in toy_run.output
    assert "eta" in toy_run.output
    assert "KFP Executor" not in toy_run.output
    assert "Warning" not in toy_run.output


def test_a_second_run_reuses_everything(toy_run):
    result = rlhf("run", "--preset", TOY, "--run-id", "second", cwd=toy_run.store.parent)
    assert result.returncode == 0, result.stderr
    assert " step " not in result.stdout
    records = [json.loads(path.read_text()) for path in (toy_run.store / "runs/second/steps").glob("*.json")]
    states = {record["step"]: record["state"] for record in records}
    assert states.pop("prepare") == states.pop("report") == "done"
    assert set(states.values()) == {"reused"}
    assert (toy_run.store / "runs/second/report/index.html").exists()


def test_stages_can_be_switched_off(toy_run):
    off = ["rl.enabled=false", "reward.enabled=false", "pretrain.enabled=false", "sft.max_steps=2"]
    result = rlhf("run", "--preset", TOY, "--run-id", "off", *off, cwd=toy_run.store.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    records = [json.loads(path.read_text()) for path in (toy_run.store / "runs/off/steps").glob("*.json")]
    states = {record["step"]: record["state"] for record in records}
    assert {step for step, state in states.items() if state == "off"} == {
        *("pretrain", "merge-pretrain", "reward", "merge-reward", "rl", "merge-rl")
    }
    assert states["evaluate"] == "done"


def test_a_run_goes_on_under_its_name_once_the_mistake_is_mended(toy_run):
    arguments = ["run", "--preset", TOY, "--run-id", "mended", "evaluate.num_eval_prompts=8"]
    result = rlhf(*arguments, "evaluate.gates={exact.after: 2}", cwd=toy_run.store.parent)
    assert result.returncode == 2
    assert "exact.after is" in result.stderr
    assert (toy_run.store / "runs/mended/report/index.html").exists()
    result = rlhf(*arguments, cwd=toy_run.store.parent)
    assert result.returncode == 0, result.stderr


def test_another_learning_rate_runs_only_what_follows(toy_run):
    result = rlhf(
        "run", "--preset", TOY, "--run-id", "third", "rl.max_steps=2", "rl.learning_rate=1e-5", cwd=toy_run.store.parent
    )
    assert result.returncode == 0, result.stderr
    records = [json.loads(path.read_text()) for path in (toy_run.store / "runs/third/steps").glob("*.json")]
    done = {record["step"] for record in records if record["state"] == "done"}
    assert done == {"prepare", "rl", "merge-rl", "evaluate", "report"}
