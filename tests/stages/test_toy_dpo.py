"""The dpo pipeline on the toy world: it shares what the rlhf pipeline made, learns, and ends in a plain model."""

import json
import math

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.stages.conftest import TOY
from tests.support.commands import ROOT, left_behind, python, rlhf

NEW = {"dpo", "merge-dpo", "evaluate"}


def test_what_the_other_pipeline_made_is_reused(toy_run, toy_dpo):
    shared = ("data", "pretrain", "merge-pretrain", "sft", "merge-sft")
    states = {step: record.state for step, record in toy_dpo.steps.items()}
    assert states == {
        **dict.fromkeys(("prepare", "report", *NEW), "done"),
        **dict.fromkeys(shared, "reused"),
    }
    parents = toy_dpo.manifest("dpo").parents
    assert parents["model"].digest == toy_run.manifest("merge-sft").digest
    assert parents["dataset"] == toy_run.manifest("reward").parents["dataset"]


def test_the_policy_starts_at_its_reference_and_learns_the_order(toy_dpo):
    metrics = toy_dpo.metrics("dpo")
    before, after = metrics["before"], metrics["after"]
    assert (before["accuracy"], before["margin"]) == (0.5, 0)
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-9)
    assert toy_dpo.curve("dpo", "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert after["accuracy"] > 0.9
    assert after["margin"] > 0.5
    assert after["loss"] < 0.5
    assert after["ranking_accuracy"] >= before["ranking_accuracy"]
    assert after["exact_match"] > 0.5
    gap = {when: metrics[when]["log_prob_chosen"] - metrics[when]["log_prob_rejected"] for when in ("before", "after")}
    assert after["margin"] == pytest.approx(0.1 * (gap["after"] - gap["before"]), rel=1e-6)


def test_the_merged_policy_answers_as_the_adapter_did(toy_dpo):
    folder = toy_dpo.folder("merge-dpo")
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = AutoTokenizer.from_pretrained(folder)
    samples = [json.loads(line) for line in (toy_dpo.folder("dpo") / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 8
    for sample in samples:
        turns = [{"role": "user", "content": sample["prompt"]}]
        inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == sample["answer"]
        assert sample["reference"] == sample["chosen"]
    right = [float(sample["score_chosen"]) > float(sample["score_rejected"]) for sample in samples]
    assert sum(right) >= 6


def test_the_runs_configuration_says_which_stages_it_has(toy_run, toy_dpo):
    def enabled(run):
        settings = yaml.safe_load(run.config.read_text())
        return {stage for stage in ("pretrain", "sft", "reward", "rl", "dpo") if settings[stage]["enabled"]}

    assert enabled(toy_dpo) == {"pretrain", "sft", "dpo"}
    assert enabled(toy_run) == {"pretrain", "sft", "reward", "rl"}


def test_the_report_shows_this_flow(toy_dpo):
    folder = toy_dpo.store / "runs" / "dpo"
    record = json.loads((folder / "record.json").read_text())
    assert [step["step"] for step in record["steps"]] == [
        *("prepare", "data", "pretrain", "merge-pretrain", "sft", "merge-sft", "dpo", "merge-dpo", "evaluate")
    ]
    page = (folder / "report" / "index.html").read_text()
    assert '<section id="dpo">' in page
    assert '<section id="rl">' not in page
    assert "- dpo" in (folder / "report" / "MODEL_CARD.md").read_text()


def test_a_dpo_stage_that_is_off_hands_its_input_on(toy_dpo):
    arguments = ["run", str(ROOT / "pipelines" / "dpo.py"), "--preset", TOY, "--run-id", "dpo-off"]
    result = rlhf(*arguments, "dpo.enabled=false", "evaluate.num_eval_prompts=4", cwd=toy_dpo.store.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    records = [json.loads(path.read_text()) for path in (toy_dpo.store / "runs/dpo-off/steps").glob("*.json")]
    assert {record["step"] for record in records if record["state"] == "off"} == {"dpo", "merge-dpo"}
    final = next(record["uri"] for record in records if record["step"] == "merge-dpo")
    assert final == toy_dpo.steps["merge-sft"].uri


def test_other_data_and_other_settings_are_refused(toy_run, toy_dpo, tmp_path):
    given = ["--config", str(toy_dpo.config), "--output", str(tmp_path / "out")]
    model = ["--input", f"model={toy_run.folder('merge-sft')}"]
    result = python("-m", "components.dpo", *given, *model, "--input", f"dataset={toy_run.dataset('sft')}")
    assert result.returncode == 3
    assert "holds no token table" in result.stderr
    pairs = ["--input", f"dataset={toy_run.dataset('reward')}"]
    result = python("-m", "components.dpo", *given, *model, *pairs, "--set", "dpo.lora=null")
    assert result.returncode == 2
    assert "its reference is the model with the adapter off" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not left_behind(tmp_path / "out")
