"""The report of a run that failed, still runs, has only begun, was moved or has lost something."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.report.collect import collect
from components.report.page import render
from components.report.verdict import judge
from tests.support.report_page import Page, page_of
from tests.support.report_run import VARIANTS, make_run
from tests.support.report_store import NOW


def test_a_flow_that_has_only_begun_shows_what_is_to_come(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, pipeline="dpo", until="prepare"))
    assert (
        "Not finished: data, pre-training, fine-tuning, preference optimisation and evaluation did not run."
        in page.text
    )


def test_states_are_shown_by_shape_and_word(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, **VARIANTS["reused and off"]))
    nodes = [str(a["class"]).split()[1] for a in page.all("li", "node")]

    assert nodes == ["reused", "reused", "off", "reused", "done", "done", "off", "done"]
    assert "reused made in 58.8 s" in page.text
    assert "Switched off: what came in was handed on." in page.text
    assert "Every stage that ran beat its input on held-out data." in page.text
    assert "There is no final evaluation of base against final model." in page.text


def test_a_failed_run_has_a_page_that_says_so(tmp_path: Path) -> None:
    made = make_run(tmp_path, **VARIANTS["failed"])
    work = f"work/rl/0123/{made.run_id}/metrics.jsonl"
    made.store.write(work, b'{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.7}\n{"step": 3, "rew')
    page = page_of(made)

    assert judge(collect(made.config_uri)).tone == "bad"
    sentence = "components.rl: was killed, most likely for lack of memory; use smaller batches"
    assert f"Reinforcement learning failed: {sentence}." in page.text
    assert "Evaluation did not run." in page.text
    assert [str(a["class"]).split()[1] for a in page.all("li", "node")][5:7] == ["failed", "pending"]
    assert "2 of 120 rollouts" in page.text
    assert "Reward: 0.500 at step 1, 0.700 at step 2" in [a["aria-label"] for a in page.all("svg", "chart")]


def test_a_running_run_shows_how_far_it_got(tmp_path: Path) -> None:
    run = collect(make_run(tmp_path, running="reward").config_uri)
    verdict = judge(run)

    assert verdict.tone == "running"
    assert verdict.sentence == "Still running: reward model."
    assert verdict.details == ("So far: pre-training perplexity 25.7 → 4.90; fine-tuning loss 3.25 → 1.59.",)
    assert run.step("evaluate").state == "pending"
    assert "Newest model" in Page(render(run, NOW)).text


def test_a_result_that_was_removed_is_named(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    shutil.rmtree(made.uris["sft"])
    run = collect(made.config_uri)

    assert judge(run).tone == "bad"
    assert made.uris["sft"] in judge(run).sentence
    assert "it has no manifest.json" in Page(render(run, NOW)).text


def test_a_store_that_was_moved_gives_the_same_page(tmp_path: Path) -> None:
    made = make_run(tmp_path / "a store")
    before = collect(made.config_uri)
    (tmp_path / "a store").rename(tmp_path / "b")
    after = collect(f"{tmp_path}/b/runs/{made.run_id}/config.yaml")

    assert [step.metrics for step in after.steps] == [step.metrics for step in before.steps]
    assert [a.manifest.digest for a in after.lineage] == [a.manifest.digest for a in before.lineage]
