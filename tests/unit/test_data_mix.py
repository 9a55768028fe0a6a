"""The data step with several sources: weights, caps, and a fair sample of all held out."""

import json

import pytest

from components.data.table import TokenTable, read_jsonl
from tests.support.data_step import dataset


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
