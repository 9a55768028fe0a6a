"""The data step end to end: files in, tables out, counts that add up, one line for every mistake."""

import json

import numpy as np
import pytest

from components.data.__main__ import main
from components.data.table import TokenTable, read_jsonl
from tests.support import toy
from tests.support.commands import left_behind
from tests.support.models import tiny_config


@pytest.fixture
def world(tmp_path, tokenizer):
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
    (found,) = (world.store / "artifacts" / f"data-{task}").iterdir()
    return found, json.loads((found / "report.json").read_text())


def test_all_parts_with_sources_are_made_and_then_skipped(world, capsys):
    data = {task: {"sources": str(world.sources / task)} for task in ("pretrain", "sft", "reward", "rl")}
    assert world(data) == 0
    names = {folder.name for folder in (world.store / "artifacts").iterdir()}
    assert names == {"data-pretrain", "data-sft", "data-reward", "data-rl"}
    for task in data:
        _, report = dataset(world, task)
        dropped = sum(entry["count"] for entry in report["dropped"])
        assert report["rows"] == report["train"] + report["heldout"] + report["duplicates"] + dropped
    capsys.readouterr()
    assert world(data) == 0
    assert capsys.readouterr().out.count("finished before") == 4


def test_packed_rows_hold_every_document_once(world):
    assert world({"pretrain": {"sources": str(world.sources / "pretrain"), "max_length": 64}}) == 0
    folder, report = dataset(world, "pretrain")
    table = TokenTable.load(folder / "train")
    packed = [table.packed(row) for row in range(len(table.rows))]
    assert sum(len(row["input_ids"]) for row in packed) == len(table.tokens) == report["train_tokens"]
    assert max(len(row["input_ids"]) for row in packed) <= 64
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) for row in packed)
    assert report["train_padding_share"] < 0.1
    assert report["train_padding_share"] == pytest.approx(1 - report["train_tokens"] / (64 * len(packed)), abs=1e-4)


def test_prompts_are_on_one_side_in_every_stage(world):
    tasks = ("sft", "reward", "rl")
    assert world({task: {"sources": str(world.sources / task), "heldout": 0.2} for task in tasks}) == 0
    sides = {}
    for task in tasks:
        folder, _ = dataset(world, task)
        rows = read_jsonl(folder / "heldout" / "rows.jsonl")
        sides[task] = {row["messages"][0]["content"] for row in rows}
    assert sides["sft"] == sides["rl"] == sides["reward"]
    folder, _ = dataset(world, "rl")
    train = {row["messages"][0]["content"] for row in read_jsonl(folder / "train" / "rows.jsonl")}
    assert not train & sides["sft"]


def test_reward_pairs_of_unequal_length_can_be_left_out(world):
    source = {"sources": str(world.sources / "reward"), "equal_length": True}
    assert world({"reward": source}) == 0
    folder, report = dataset(world, "reward")
    for side in ("train", "heldout"):
        chosen, rejected = (TokenTable.load(folder / side / name) for name in ("chosen", "rejected"))
        assert np.array_equal(chosen.lengths, rejected.lengths)
    assert report["dropped"][-1]["reason"] == "the answers differ in their number of tokens"


def test_columns_reach_the_reward_functions(world):
    assert world({"rl": {"sources": str(world.sources / "rl")}}) == 0
    folder, _ = dataset(world, "rl")
    row = read_jsonl(folder / "train" / "rows.jsonl")[0]
    assert set(row) == {"messages", "answer", "kind", "reference"}
    assert row["reference"] == row["answer"]


def test_the_key_follows_the_content_of_the_sources_not_their_place(world, tmp_path):
    source = world.sources / "sft" / "sft.jsonl"
    copy = tmp_path / "copy" / "sft.jsonl"
    copy.parent.mkdir()
    copy.write_bytes(source.read_bytes())
    for path in (source, copy):
        assert world({"sft": {"sources": str(path)}}) == 0
    assert len(list((world.store / "artifacts" / "data-sft").iterdir())) == 1
    copy.write_bytes(source.read_bytes() + b'{"question": "new", "answer": "row"}\n')
    assert world({"sft": {"sources": str(copy)}}) == 0
    assert len(list((world.store / "artifacts" / "data-sft").iterdir())) == 2


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": \n', {}, "bad.jsonl line 2"),
        ('{"qestion": "a", "answr": "b"}\n', {}, "bad.jsonl line 1"),
        ('{"question": "a", "answer": ""}\n' * 3, {}, "no row of 3 can be used"),
        ('{"question": "a", "answer": "b"}\n', {}, "split is empty"),
        ("", {}, "bad.jsonl"),
        ('{"question": "a", "answer": "b"}\n', {"heldout": 2}, "data.sft.heldout"),
        ('{"question": "a", "answer": "b"}\n', {"max_lenght": 2}, "did you mean max_length"),
        ('{"question": "a", "answer": "b"}\n', {"split_by": "code"}, "no column code"),
    ],
)
def test_mistakes_end_with_code_2_one_line_and_nothing_written(world, tmp_path, capsys, rows, settings, words):
    (tmp_path / "bad.jsonl").write_text(rows)
    assert world({"sft": {"sources": str(tmp_path / "bad.jsonl"), **settings}}) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
    assert left_behind(world.store) == []


def test_too_long_answers_are_named_when_nothing_is_left(world, tmp_path, capsys):
    lines = [json.dumps({"question": f"q{i}", "answer": "house " * 200}) for i in range(40)]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    assert world({"sft": {"sources": str(tmp_path / "long.jsonl"), "max_length": 64, "heldout": 0.3}}) == 2
    assert "the answer alone is longer than max_length" in capsys.readouterr().err


def test_a_files_suffix_is_part_of_its_content(world, tmp_path):
    rows = "".join(f'{{"text": "line {i}"}}\n' for i in range(60))
    for name in ("p.txt", "p.jsonl"):
        (tmp_path / name).write_text(rows)
        assert world({"heldout": 0.3, "pretrain": {"sources": str(tmp_path / name)}}) == 0
    assert len(list((world.store / "artifacts" / "data-pretrain").iterdir())) == 2


def test_sources_that_changed_since_the_configuration_was_resolved_are_refused(world, capsys):
    source = {"path": str(world.sources / "sft"), "digest": "sha256:of-yesterday"}
    assert world({"sft": {"sources": [source]}}) == 2
    assert "has changed since the configuration was resolved" in capsys.readouterr().err


def test_margins_reach_the_dataset(world, tmp_path):
    rows = [{"prompt": f"q{i}", "chosen": "moo", "rejected": "baa", "margin": i / 10} for i in range(40)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert world({"reward": {"sources": str(tmp_path / "m.jsonl"), "heldout": 0.2}}) == 0
    folder, report = dataset(world, "reward")
    margins = [np.load(folder / side / "margin.npy") for side in ("train", "heldout")]
    assert len(margins[0]) == report["train_rows"]
    assert sorted(np.concatenate(margins).tolist()) == pytest.approx([i / 10 for i in range(40)])


def test_sequences_longer_than_the_models_positions_are_refused(world, capsys):
    assert world({"sft": {"sources": str(world.sources / "sft"), "max_length": 4096}}) == 2
    assert "data.sft.max_length: is 4096, the model has 2048 positions" in capsys.readouterr().err


def test_one_split_for_all_parts_keeps_held_out_prompts_out_of_every_stage(world):
    tasks = ("sft", "reward", "rl")
    assert world({"heldout": 0.3, **{task: {"sources": str(world.sources / task)} for task in tasks}}) == 0
    prompts = {}
    for task in tasks:
        folder, _ = dataset(world, task)
        rows = read_jsonl(folder / "heldout" / "rows.jsonl")
        prompts[task] = {row["messages"][0]["content"] for row in rows}
    assert prompts["sft"] == prompts["reward"] == prompts["rl"]
    assert len(prompts["sft"]) > 20


def write_questions(path, name, count):
    path.write_text("".join(json.dumps({"question": f"{name} {i}?", "answer": f"{name}"}) + "\n" for i in range(count)))
    return str(path)


@pytest.fixture
def two_sources(tmp_path):
    return [write_questions(tmp_path / f"{name}.jsonl", name, count) for name, count in (("moo", 300), ("woof", 100))]


def trained_answers(folder, tokenizer):
    """How often each training answer comes."""
    table = TokenTable.load(folder / "train")
    rows = [table.ids(i)[table.labels(i) != -100] for i in range(len(table))]
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in rows]
    return {text: texts.count(text) for text in set(texts)}


def test_weights_are_shares_of_the_training_rows_and_leave_the_held_out_ones_alone(world, two_sources, tokenizer):
    weights = (0.25, 0.75)
    weighted = [{"path": path, "weight": weight} for path, weight in zip(two_sources, weights, strict=True)]
    assert world({"sft": {"sources": two_sources, "heldout": 0.2}}) == 0
    plain, before = dataset(world, "sft")
    (world.store / "artifacts" / "data-sft").rename(world.store / "plain")
    plain = world.store / "plain" / plain.name
    assert world({"sft": {"sources": weighted, "heldout": 0.2}}) == 0
    mixed, after = dataset(world, "sft")
    total = before["train_rows"]
    assert after["train_rows"] == total
    assert trained_answers(mixed, tokenizer) == pytest.approx({"moo": 0.25 * total, "woof": 0.75 * total}, abs=1)
    assert read_jsonl(mixed / "heldout" / "rows.jsonl") == read_jsonl(plain / "heldout" / "rows.jsonl")
    for number, counts in enumerate(after["sources"]):
        assert counts["rows"] == (300, 100)[number] == counts["train"] + counts["heldout"]
        assert counts["heldout_rows"] == before["sources"][number]["heldout_rows"]
        assert counts["train_rows"] == pytest.approx(weights[number] * total, abs=1)
    assert sum(counts["train_tokens"] for counts in after["sources"]) == after["train_tokens"]
    manifest = json.loads((mixed / "manifest.json").read_text())
    assert manifest["metrics"]["sources"] == after["sources"]


def test_caps_of_a_source_and_of_a_stage(world, two_sources, tokenizer):
    capped = [{"path": two_sources[0], "max_samples": 40}, two_sources[1]]
    assert world({"sft": {"sources": capped, "heldout": 0.2, "max_samples": 50}}) == 0
    folder, report = dataset(world, "sft")
    assert report["rows"] == 140
    assert report["train_rows"] == 50
    assert sum(trained_answers(folder, tokenizer).values()) == 50


def test_the_seed_is_part_of_the_key_only_where_rows_are_drawn(world, two_sources):
    for settings, results in (({}, 1), ({"max_samples": 50}, 3)):
        for seed in (1, 2):
            data = {"sft": {"sources": two_sources, "heldout": 0.2, **settings}}
            assert world(data, seed=seed) == 0
        assert len(list((world.store / "artifacts" / "data-sft").iterdir())) == results


def test_a_weight_for_rows_that_are_not_there_is_refused(world, two_sources, capsys):
    twice = [{"path": two_sources[0], "weight": 1}, {"path": two_sources[0], "weight": 1}]
    assert world({"sft": {"sources": twice, "heldout": 0.2}}) == 2
    assert "moo.jsonl: has a weight but no training rows" in capsys.readouterr().err


def test_the_first_held_out_rows_are_a_fair_sample_of_all_sources(world, two_sources):
    assert world({"sft": {"sources": two_sources, "heldout": 0.5, "max_heldout": 40}}) == 0
    folder, report = dataset(world, "sft")
    answers = [row["messages"][-1]["content"] for row in read_jsonl(folder / "heldout" / "rows.jsonl")]
    assert len(answers) == 40
    assert 4 <= answers.count("woof") <= 18
    assert {"moo", "woof"} == set(answers[:20])
    table = TokenTable.load(folder / "heldout")
    assert len(table) == 40 == report["heldout_rows"]


def test_documents_of_a_model_with_alibi_have_a_row_each(tmp_path, world, tokenizer, capsys):
    tiny_config("bloom", tokenizer, architectures=["BloomForCausalLM"]).save_pretrained(tmp_path / "model")
    data = {task: {"sources": str(world.sources / task)} for task in ("pretrain", "sft")}
    assert world(data) == 0
    for task in data:
        table = TokenTable.load(dataset(world, task)[0] / "train")
        assert all(len(table.packed(row)["seq_lengths"]) == 1 for row in range(len(table.rows)))
    assert capsys.readouterr().out.count("one sequence a row") == 2


def test_a_missing_source_is_named(world, capsys):
    assert world({"sft": {"sources": "/nowhere/x.jsonl"}}) == 2
    assert "/nowhere/x.jsonl" in capsys.readouterr().err
