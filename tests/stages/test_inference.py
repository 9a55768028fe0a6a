"""Answers and scores of really trained models: those that the stages themselves measured."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.inference.generate import Options, generate_file
from components.inference.score import score_file
from components.reward.parity import load_parity


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_generate_gives_the_answers_that_evaluate_gave(toy_run, tmp_path):
    source = toy_run.dataset("rl") / "heldout" / "rows.jsonl"
    generate_file(str(toy_run.folder("merge-rl")), str(source), tmp_path / "o.jsonl", Options(max_completion_length=8))
    answers = {row["messages"][-1]["content"]: row["completion"] for row in read(tmp_path / "o.jsonl")}
    samples = read(toy_run.folder("evaluate") / "samples.jsonl")
    assert len(samples) >= 8
    assert all(answers[sample["prompt"]] == sample["answer"] for sample in samples)


@pytest.mark.parametrize("step", ["reward", "merge-reward"])
def test_score_gives_the_scores_that_the_reward_stage_gave(toy_run, tmp_path, step, capsys):
    source = toy_run.dataset("reward") / "heldout" / "rows.jsonl"
    score_file(str(toy_run.folder(step)), str(source), tmp_path / "o.jsonl")
    rows = read(tmp_path / "o.jsonl")
    parity = load_parity(toy_run.folder(step))
    assert [row["score_chosen"] for row in rows[:50]] == pytest.approx(parity.scores[:50], abs=1e-3)
    assert [row["score_rejected"] for row in rows[:50]] == pytest.approx(parity.scores[50:], abs=1e-3)
    after = toy_run.metrics("reward")["after"]
    assert len(rows) == after["pairs"]
    wanted = f"score accuracy {after['accuracy']:.4f} margin "
    assert capsys.readouterr().out.splitlines()[-1].startswith(wanted)


def test_a_plain_model_ends_its_answer_at_the_end_of_turn(toy_run):
    folder = toy_run.folder("merge-rl")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    turns = [{"role": "user", "content": "What did Bada the cow say?"}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(written) < 20
    assert tokenizer.decode(written[-1]) == "<|im_end|>"
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.config.use_cache
