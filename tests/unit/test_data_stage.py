"""The data step end to end: files in, tables out, counts that add up, one line for every mistake."""

import json

import numpy as np
import pytest

from components.data.table import TokenTable, read_jsonl
from tests.support.commands import left_behind
from tests.support.data_step import dataset
from tests.support.models import tiny_config


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
