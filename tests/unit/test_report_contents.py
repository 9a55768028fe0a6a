"""What the report takes out of artifacts: curves, samples, rows of data, lineage, the record of a run."""

from __future__ import annotations

import json

import pytest

from components.common.flows import flow_steps
from components.report.collect import artifact_uris, collect, parse_curves
from components.report.data_view import dataset_views, solve_rates
from components.report.lineage import artifact_views, run_record
from components.report.samples import answer_rows, pair_rows
from tests.support.report_run import SECONDS
from tests.support.report_store import Made


def test_the_data_steps_artifacts_are_told_apart_in_a_root_with_spaces() -> None:
    uris = ["/a b/artifacts/data-sft/1f", "/a b/artifacts/data-rl/2e"]
    assert artifact_uris(" ".join(uris)) == uris
    assert artifact_uris("") == []


def test_curves_are_read_up_to_the_last_whole_line() -> None:
    text = '{"step": 1, "loss": 2.0, "lr": 0.1}\n{"step": 2, "loss": NaN, "lr": 0.2}\n{"step": 3, "lo'
    assert parse_curves(text) == {"loss": ((1.0, 2.0),), "lr": ((1.0, 0.1), (2.0, 0.2))}
    assert parse_curves("") == {}


def test_answers_equal_to_the_reference_are_marked() -> None:
    sample = {"prompt": "p", "reference": "right", "before": "left", "answer": "right"}
    (row,) = answer_rows([sample])
    assert row.before is not None
    assert (row.before.is_right, row.after.is_right) == (False, True)
    (continued,) = answer_rows([sample], continued=True)
    assert not continued.after.is_right
    (unknown,) = answer_rows([{"prompt": "p", "reference": "", "answer": ""}])
    assert unknown.before is None
    assert not unknown.after.is_right


def test_a_pair_is_right_when_the_chosen_answer_scores_higher() -> None:
    pair = {"prompt": "Q?", "chosen": "right arm", "rejected": "right leg"}
    low, high = (pair_rows([{**pair, "score_chosen": score, "score_rejected": "0.3"}])[0] for score in ("0.2", "0.4"))
    assert [[piece.text for piece in part] for part in (low.prompt, low.chosen, low.rejected)] == [
        [v] for v in pair.values()
    ]
    assert (low.is_right, high.is_right) == (False, True)


def test_all_rows_of_a_dataset_are_accounted_for(finished_run: Made) -> None:
    run = collect(finished_run.config_uri)
    for dataset in dataset_views(run):
        assert sum(part.rows for part in dataset.parts) == dataset.rows, dataset.title
        assert sum(part.share for part in dataset.parts) == pytest.approx(1)
    rl = dataset_views(run)[3]
    assert {part.label: part.rows for part in rl.parts}["not used"] == 44
    assert {rate.group: rate.is_kept for rate in solve_rates(run)} == {
        "chapter": False,
        "encounter": True,
        "full text": False,
        "side": True,
    }


def test_lineage_names_parents_before_children(finished_run: Made) -> None:
    views = artifact_views(collect(finished_run.config_uri))
    place = {view.anchor: index for index, view in enumerate(views)}

    assert len(views) == len(finished_run.uris) == 15
    assert all(place[parent.anchor] < place[view.anchor] for view in views for parent in view.parents)
    merged = next(view for view in views if view.title == "Merge of reinforcement learning")
    assert [(parent.name, parent.title) for parent in merged.parents] == [
        ("adapter", "Reinforcement learning"),
        ("base", "Merge of fine-tuning"),
    ]
    assert merged.uri == finished_run.uris["merge-rl"]


def test_record_lists_steps_with_artifacts_digests_and_parents(finished_run: Made) -> None:
    record = run_record(collect(finished_run.config_uri))
    steps = {step["step"]: step for step in record["steps"]}

    assert list(steps) == list(flow_steps("rlhf")[:-1])
    assert len(steps["data"]["artifacts"]) == 4
    assert steps["sft"]["state"] == "done"
    assert steps["sft"]["seconds"] == SECONDS["sft"]
    (sft,) = steps["sft"]["artifacts"]
    assert (sft["uri"], sft["digest"]) == (finished_run.uris["sft"], finished_run.digests["sft"])
    assert sft["parents"]["model"]["digest"] == finished_run.digests["merge-pretrain"]
    assert json.loads(json.dumps(record)) == record
