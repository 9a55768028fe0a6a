"""What the report calls better, worse, or chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.report.collect import collect
from components.report.compare import Comparison, Interval, final_comparisons, stage_comparisons, wilson
from components.report.verdict import judge
from tests.support.report_page import page_of
from tests.support.report_run import make_run
from tests.support.report_store import Made


@pytest.mark.parametrize(
    ("name", "before", "after", "gain", "outcome"),
    [
        ("perplexity", 25.0, 5.0, None, "better"),
        ("loss", 1.0, 1.5, None, "worse"),
        ("accuracy", 0.5, 0.9, None, "better"),
        ("exact_match", 0.5, 0.4, None, "worse"),
        ("reward", 0.5, 0.5, None, "same"),
        ("a_reward_function", 0.1, 0.2, None, "better"),
        ("kl", 0.0, 2.0, None, "none"),
        ("accuracy", None, 0.9, None, "none"),
        ("reward", 0.1, 0.2, Interval(0.05, 0.15), "better"),
        ("reward", 0.1, 0.2, Interval(-0.01, 0.21), "unclear"),
        ("reward", 0.3, 0.2, Interval(-0.2, -0.05), "worse"),
        ("exact", 0.0, 0.0, Interval(0.0, 0.0), "same"),
    ],
)
def test_outcome(name: str, before: float | None, after: float, gain: Interval | None, outcome: str) -> None:
    assert Comparison(name, before, after, gain).outcome == outcome


def test_outcomes_are_coloured_in_the_direction_of_improvement(finished_run: Made) -> None:
    run = collect(finished_run.config_uri)
    by_stage = {
        step.name: {c.name: c.outcome for c in stage_comparisons(step.metrics)} for step in run.steps if step.metrics
    }

    assert by_stage["pretrain"] == {"perplexity": "better", "loss": "better"}
    assert list(by_stage["rl"]) == ["reward", "exact_answer", "kl", "ended"]
    assert by_stage["rl"]["kl"] == "none"
    assert by_stage["reward"]["accuracy_head_only"] == "none"
    assert not page_of(finished_run).all("td", "change worse")
    worse = make_run(finished_run.root.parent / "worse", changes={"sft": {"after": {"loss": 3.9}}})
    assert len(page_of(worse).all("td", "change worse")) == 1


def test_verdict_weighs_intervals(tmp_path: Path) -> None:
    unclear = {"after": {"reward": 0.43}, "reward_gain": {"mean": 0.018, "low": -0.05, "high": 0.09}}
    verdict = judge(collect(make_run(tmp_path / "unclear", changes={"rl": unclear}).config_uri))
    assert verdict.tone == "mixed"
    assert verdict.sentence == (
        "Reinforcement learning did not beat its input: reward 0.412 → 0.430, which may be chance."
    )
    fell = {"after": {"exact_answer": 0.41}, "exact_answer_gain": {"mean": -0.14, "low": -0.2, "high": -0.08}}
    verdict = judge(collect(make_run(tmp_path / "fell", changes={"rl": fell}).config_uri))
    assert verdict.tone == "mixed"
    assert verdict.sentence.startswith("Every stage beat its input")
    assert verdict.details[0] == "Worse than before: exact answer 0.555 → 0.410 (reinforcement learning)."


def test_shares_of_known_size_have_an_interval() -> None:
    interval = wilson(0.8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(1.0, 377).high == 1.0
    after = {"accuracy": 0.5, "accuracy_equal_length": 0.8, "pairs": 90, "pairs_equal_length": 10, "loss": 1.0}
    found = {c.name: c.certainty for c in stage_comparisons({"after": after | {"exact_match": 0.5, "prompts": 20}})}
    assert found["exact_match"] == wilson(0.5, 20)
    assert found["accuracy_equal_length"] == interval
    assert found["accuracy"] == wilson(0.5, 90)
    assert found["loss"] is None


def test_final_comparisons_read_the_evaluations_metrics() -> None:
    gain = {"gain": {"mean": 0.7, "low": 0.6, "high": 0.8}}
    metrics = {"prompts": 64, "exact": {"before": 0.1, "after": 0.8, **gain}, "reward": {"after": 1.0}}
    reward, exact = final_comparisons(metrics)

    assert (exact.name, exact.before, exact.after, exact.gain) == ("exact", 0.1, 0.8, Interval(0.6, 0.8))
    assert (reward.before, reward.gain, reward.sentence()) == (None, None, "reward 1.00")
