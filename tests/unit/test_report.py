"""The report: complete without its artifacts' code, honest about failures, safe against what data say."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.common.flows import flow_steps
from components.report import formats
from components.report.__main__ import main
from components.report.card import front_matter, model_card
from components.report.charts import is_noisy, line_chart, nice_ticks, smoothed, thin, tick_writer
from components.report.collect import artifact_uris, collect, parse_curves
from components.report.compare import Comparison, Interval, final_comparisons, stage_comparisons, wilson
from components.report.data_view import dataset_views, solve_rates
from components.report.lineage import artifact_views, run_record
from components.report.metrics import describe
from components.report.page import render, total_seconds, yaml_lines
from components.report.samples import answer_rows, pair_rows
from components.report.verdict import judge
from tests.support.report_run import EVIL, NOW, SECONDS, Made, make_run

# --- the page as a whole -------------------------------------------------------------------------------------------

KILLED = {
    "code": 75,
    "reason": "was killed, most likely for lack of memory",
    "where": "components.rl",
    "hint": "use smaller batches",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "finished": {},
    "failed": {"failed": ("rl", KILLED)},
    "failed at once": {"failed": ("prepare", KILLED)},
    "running": {"running": "reward"},
    "stopped": {"until": "sft"},
    "reused and off": {"reused": ("prepare", "data", "sft", "merge-sft"), "off": ("pretrain", "evaluate")},
    "all off": {"off": ("pretrain", "sft", "reward", "rl", "evaluate")},
    "dpo": {"pipeline": "dpo"},
    "dpo begun": {"pipeline": "dpo", "until": "prepare"},
}
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """A strict reading of a page: every element is closed in order; collects elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    @property
    def text(self) -> str:
        shown = " ".join(data for tag, data in self.texts if tag not in ("style", "script"))
        return " ".join(shown.split())

    def all(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        wanted = set(cls.split())
        return [a for name, a in self.elements if name == tag and wanted <= set((a.get("class") or "").split())]

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.elements if "id" in attrs]


def page_of(made: Made) -> Page:
    return Page(render(collect(made.config_uri), NOW))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_page_is_well_formed_and_needs_nothing_else(variant: str, tmp_path: Path) -> None:
    made = make_run(tmp_path, **VARIANTS[variant])
    page = page_of(made)

    assert not [a for _, a in page.elements if "src" in a or "srcset" in a or "action" in a]
    links = [str(a["href"]) for _, a in page.elements if "href" in a]
    assert links
    assert all(link.removeprefix("#") in page.ids() and link.startswith("#") for link in links), links
    assert len(page.ids()) == len(set(page.ids()))
    assert not {"link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.elements}
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert "prefers-color-scheme: dark" in style
    assert not any(word in style for word in ("url(", "@import", "//"))
    assert made.run_id in page.text


def test_the_script_is_the_one_that_the_page_allows(finished: Made) -> None:
    page = page_of(finished)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = [data for tag, data in page.texts if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_text_of_data_and_configuration_stays_text(tmp_path: Path) -> None:
    made = make_run(tmp_path, settings={"notes": EVIL}, until="evaluate")
    evil_rows = [{"prompt": EVIL, "reference": EVIL, "before": EVIL, "answer": EVIL}]
    evil_pairs = [{"prompt": EVIL, "chosen": EVIL, "rejected": EVIL, "score_chosen": "1.0", "score_rejected": "0.5"}]
    metrics: dict[str, Any] = {
        "before": {"reward": 0.0, EVIL: 0.1},
        "after": {"reward": 1.0, EVIL: 0.2},
        "solve_rate": {EVIL: 0.5},
    }
    made.artifact("rl", "rl", "adapter", {"model": "base"}, metrics, [{"step": 1, EVIL: 1.0}], evil_rows)
    made.artifact("reward", "reward", "adapter", {"model": "base"}, {}, samples=evil_pairs)
    dropped = [{"reason": EVIL, "count": 3, "first": EVIL}]
    counts = {"rows": 9, "train": 5, "heldout": 1, "duplicates": 0, "train_rows": 5, "heldout_rows": 1}
    tokens = {"train_tokens": 50, "heldout_tokens": 10, "train_longest": 9, "truncated": 0, "dropped": dropped}
    made.record("data", made.artifact("data-rl", "data-rl", "dataset", {}, {**counts, **tokens}))
    made.record("evaluate", state="failed", error={"code": 2, "reason": EVIL, "where": EVIL, "hint": EVIL})
    made.store.write(f"runs/{made.run_id}/request.json", json.dumps({"preset": EVIL, "base": EVIL}).encode())

    page = page_of(made)

    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    # Shown as text, not left out: configuration, errors, samples, pairs, drops, groups, metrics, request.
    assert page.text.count("onerror=alert(1)") >= 15


def test_the_reader_meets_the_run_in_order(finished: Made) -> None:
    page = page_of(finished)
    order = ["flow", "prepare", "pretrain", "sft", "reward", "rl", "evaluate", "data", "lineage", "configuration"]

    assert [name for name in page.ids() if not name.startswith("artifact-")] == order
    for words in (
        "Every stage beat its input on held-out data.",
        "Base against final model on 256 held-out prompts: reward −1.20 → 1.87, exact answer 0.0117 → 0.812.",
        "llama, 4 × 128, 1.312 M parameters, made from scratch",
        "Took 4 min 57 s",
        "LoRA of rank 16 on all linear layers, 262,144 parameters",
        "120 rollouts of 64 answers",
        "right to the letter: 1 before, 7 after, of 9 shown",
        "+1.23 to +1.61",
        "833 the answers differ in their number of tokens",
        "row that begins 'Which chapter is J45.40 in?'",
        "learning_rate: 5.0e-05",
        "transformers 5.23.0",
    ):
        assert words in page.text
    assert len(page.all("svg", "chart")) == 4 + 4 + 4 + 5 + 16


def test_a_run_of_the_other_pipeline_shows_its_own_flow(tmp_path: Path) -> None:
    made = make_run(tmp_path, pipeline="dpo")
    page = page_of(made)

    assert [name for name in page.ids() if not name.startswith("artifact-")] == [
        *("flow", "prepare", "pretrain", "sft", "dpo", "evaluate", "data", "lineage", "configuration")
    ]
    assert len(page.all("li", "node")) == 7
    for words in (
        "Every stage beat its input on held-out data.",
        "DPO",
        "Pairwise accuracy 50.0 % → 96.0 %",
        "Chosen more likely",
        "400 of 32 pairs",
        "right to the letter: 3 before, 7 after, of 9 shown",
        "Sample pairs",
        "Preference pairs 9,000 rows",
        "Log-probability, rejected",
    ):
        assert words in page.text, words
    assert "Reinforcement learning" not in page.text
    text = model_card(collect(made.config_uri))
    assert text is not None
    assert "the model after preference optimisation" in text
    assert "| Preference optimisation | done |" in text
    assert "not necessarily more likely than it was" in text
    assert front_matter(collect(made.config_uri))["tags"] == ["rlhf", "pretrain", "sft", "dpo"]


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


def test_the_data_steps_artifacts_are_told_apart_in_a_root_with_spaces() -> None:
    uris = ["/a b/artifacts/data-sft/1f", "/a b/artifacts/data-rl/2e"]
    assert artifact_uris(" ".join(uris)) == uris
    assert artifact_uris("") == []


# --- what is better ------------------------------------------------------------------------------------------------


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


def test_outcomes_are_coloured_in_the_direction_of_improvement(finished: Made) -> None:
    run = collect(finished.config_uri)
    by_stage = {
        step.name: {c.name: c.outcome for c in stage_comparisons(step.metrics)} for step in run.steps if step.metrics
    }

    assert by_stage["pretrain"] == {"perplexity": "better", "loss": "better"}
    assert list(by_stage["rl"]) == ["reward", "exact_answer", "kl", "ended"]
    assert by_stage["rl"]["kl"] == "none"
    assert by_stage["reward"]["accuracy_head_only"] == "none"
    assert not page_of(finished).all("td", "change worse")
    worse = make_run(finished.root.parent / "worse", changes={"sft": {"after": {"loss": 3.9}}})
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


# --- curves --------------------------------------------------------------------------------------------------------


def test_no_point_no_chart() -> None:
    assert line_chart([], describe("loss")) == ""
    assert line_chart([(1, math.nan), (2, math.inf)], describe("loss")) == ""


@pytest.mark.parametrize(
    "points",
    [
        [(5, 1.0)],
        [(1, 0.05), (2, 0.05), (3, 0.05)],
        [(1, 0.0), (2, 0.0)],
        [(1, 1.0), (2, math.nan), (3, 2.0)],
        [(1, -3.0), (2, 1e9)],
        [(1, 1e-9), (2, 2e-9)],
        [(1, 0.693147), (2, 0.693148)],
        [(step, math.sin(step) * step) for step in range(1, 5000)],
    ],
)
def test_charts_stay_inside_their_frame(points: list[tuple[float, float]]) -> None:
    chart = Page(line_chart(points, describe("margin")))
    (svg,) = chart.all("svg")
    _, _, width, height = map(float, str(svg["viewbox"]).split())
    places = [tuple(map(float, place.split(","))) for a in chart.all("polyline") for place in str(a["points"]).split()]

    assert places
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert "nan" not in str(line_chart(points, describe("margin"))).lower()
    labels = [data for tag, data in chart.texts if tag == "text"]
    assert len(labels) == len(chart.all("text")) >= 2
    assert len(chart.all("circle", "end")) == 1
    assert len(str(svg["data-points"]).split()) <= 600


def test_a_value_is_drawn_where_its_axis_says() -> None:
    chart = Page(line_chart([(1000, 0.0), (2000, 10.0)], describe("margin")))
    ticks = {data: float(str(a["y"])) - 3.8 for (_, data), a in zip(chart.texts, chart.all("text"), strict=True)}
    (line,) = chart.all("polyline", "raw")
    (_, first), (_, last) = (map(float, place.split(",")) for place in str(line["points"]).split())

    assert first == pytest.approx(ticks["0"], abs=0.11)
    assert last == pytest.approx(ticks["10.0"], abs=0.11)


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.2, 0.8, ["−0.2", "0", "0.2", "0.4", "0.6", "0.8"]),
        (0.6931, 0.6943, ["0.69325", "0.69350", "0.69375", "0.69400", "0.69425"]),
        (0.0, 4.1e-4, ["0", "1e-4", "2e-4", "3e-4", "4e-4"]),
        (0.0, 21000.0, ["0", "5k", "10k", "15k", "20k"]),
        (0.0, 3.2e6, ["0", "1M", "2M", "3M"]),
    ],
)
def test_ticks_are_round_and_written_alike(low: float, high: float, written: list[str]) -> None:
    ticks = nice_ticks(low, high, 5)
    write = tick_writer(ticks)
    assert [write(tick) for tick in ticks] == written


def test_shares_have_ticks_in_per_cent() -> None:
    ticks = nice_ticks(0.55, 1.0, 5)
    assert [tick_writer(ticks, is_share=True)(tick) for tick in ticks] == ["60 %", "70 %", "80 %", "90 %", "100 %"]


def test_thinning_keeps_spikes_and_ends() -> None:
    points = [(float(step), 0.0) for step in range(10_000)]
    points[4321] = (4321.0, 9.0)
    points[8765] = (8765.0, -9.0)
    kept = thin(points, 600)

    assert len(kept) <= 600
    assert {points[0], points[4321], points[8765], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:600], 600) == points[:600]


def test_smoothing_neither_lags_nor_bends_at_the_ends() -> None:
    line = [(float(step), 3.0 - 0.5 * step) for step in range(100)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    rng = random.Random(0)
    noisy = [(x, y + rng.gauss(0, 1)) for x, y in line]
    off = [abs(smooth - y) for (_, smooth), (_, y) in zip(smoothed(noisy), line, strict=True)]
    assert sum(off) / len(off) < 0.4
    assert is_noisy([y + rng.gauss(0, 1) for y in [0.0] * 50])
    assert not is_noisy([y for _, y in line])


def test_a_noisy_curve_has_a_smooth_line_and_a_quiet_one_has_not() -> None:
    rng = random.Random(1)
    noisy = Page(line_chart([(step, rng.gauss(0, 1)) for step in range(200)], describe("reward")))
    quiet = Page(line_chart([(step, 1 / (1 + step)) for step in range(200)], describe("lr")))

    assert len(noisy.all("polyline", "smooth")) == len(noisy.all("polyline", "raw faint")) == 1
    assert not quiet.all("polyline", "smooth")


def test_curves_are_read_up_to_the_last_whole_line() -> None:
    text = '{"step": 1, "loss": 2.0, "lr": 0.1}\n{"step": 2, "loss": NaN, "lr": 0.2}\n{"step": 3, "lo'
    assert parse_curves(text) == {"loss": ((1.0, 2.0),), "lr": ((1.0, 0.1), (2.0, 0.2))}
    assert parse_curves("") == {}


# --- samples, data, lineage ----------------------------------------------------------------------------------------


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


def test_all_rows_of_a_dataset_are_accounted_for(finished: Made) -> None:
    run = collect(finished.config_uri)
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


def test_lineage_names_parents_before_children(finished: Made) -> None:
    views = artifact_views(collect(finished.config_uri))
    place = {view.anchor: index for index, view in enumerate(views)}

    assert len(views) == len(finished.uris) == 15
    assert all(place[parent.anchor] < place[view.anchor] for view in views for parent in view.parents)
    merged = next(view for view in views if view.title == "Merge of reinforcement learning")
    assert [(parent.name, parent.title) for parent in merged.parents] == [
        ("adapter", "Reinforcement learning"),
        ("base", "Merge of fine-tuning"),
    ]
    assert merged.uri == finished.uris["merge-rl"]


def test_record_lists_steps_with_artifacts_digests_and_parents(finished: Made) -> None:
    record = run_record(collect(finished.config_uri))
    steps = {step["step"]: step for step in record["steps"]}

    assert list(steps) == list(flow_steps("rlhf")[:-1])
    assert len(steps["data"]["artifacts"]) == 4
    assert steps["sft"]["state"] == "done"
    assert steps["sft"]["seconds"] == SECONDS["sft"]
    (sft,) = steps["sft"]["artifacts"]
    assert (sft["uri"], sft["digest"]) == (finished.uris["sft"], finished.digests["sft"])
    assert sft["parents"]["model"]["digest"] == finished.digests["merge-pretrain"]
    assert json.loads(json.dumps(record)) == record


# --- card, numbers, command line -----------------------------------------------------------------------------------


def test_model_card_has_front_matter_that_the_hub_reads(finished: Made) -> None:
    from huggingface_hub import ModelCard

    text = model_card(collect(finished.config_uri))
    assert text is not None
    data: Any = ModelCard(text).data

    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    results = {result.metric_type: result.metric_value for result in data.eval_results or []}
    assert results == {"reward": 1.871, "exact_answer": 0.8125}
    assert data.base_model is None
    for words in ("## Limitations", finished.digests["merge-rl"], "exact match 1.9 % → 71.1 %", "LoRA of rank 16"):
        assert words in text


def test_model_card_names_what_the_hub_knows(tmp_path: Path) -> None:
    sources = [
        {"path": "owner/some-data:train", "digest": "hub:owner/some-data:train"},
        {"path": "/x", "digest": "sha256:1"},
    ]
    made = make_run(tmp_path, settings={"data": {"sft": {"sources": sources}}})
    made.store.write(f"runs/{made.run_id}/request.json", b'{"preset": "p", "base": "owner/a-model"}')
    assert front_matter(collect(made.config_uri))["datasets"] == ["owner/some-data"]
    assert "base_model" not in front_matter(collect(made.config_uri))
    made.record("prepare", made.artifact("base", "base", "model", config={"digest": "hub:0f1e"}))
    assert front_matter(collect(made.config_uri))["base_model"] == "owner/a-model"


def test_model_card_is_of_the_newest_model_and_honest_about_it(tmp_path: Path) -> None:
    text = model_card(collect(make_run(tmp_path / "failed", **VARIANTS["failed"]).config_uri))
    assert text is not None
    assert "the model after fine-tuning" in text
    assert "The run was not a full success" in text
    assert model_card(collect(make_run(tmp_path / "none", **VARIANTS["failed at once"]).config_uri)) is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.number(4.9021), "4.90"),
        (formats.number(25.683), "25.7"),
        (formats.number(513.27), "513"),
        (formats.number(1394.2), "1,394"),
        (formats.number(-0.0042876), "−0.00429"),
        (formats.number(0.9996), "1.00"),
        (formats.number(4.7e-7), "4.7e-7"),
        (formats.number(0), "0"),
        (formats.percent(0.9602), "96.0 %"),
        (formats.percent(1.0), "100 %"),
        (formats.count(139_584), "139,584"),
        (formats.count(134_515_008), "134.5 M"),
        (formats.rate(2e-4), "2e-4"),
        (formats.rate(0.004), "0.004"),
        (formats.size(558_336), "545 KiB"),
        (formats.duration(0.746), "0.7 s"),
        (formats.duration(59.97), "1 min 00 s"),
        (formats.duration(167.44), "2 min 47 s"),
        (formats.duration(3840), "1 h 04 min"),
        (formats.when(1795517303.3), "24 Nov 2026, 10:48 UTC"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_two_values_have_the_digits_that_tell_them_apart() -> None:
    assert describe("loss").show_pair(3.20061, 3.20449) == ("3.201", "3.204")
    assert describe("loss").show_pair(2.0, 2.0) == ("2.00", "2.00")
    assert describe("accuracy").show_pair(0.50001, 0.50049) == ("50.00 %", "50.05 %")


def test_configuration_keys_are_told_from_values() -> None:
    assert yaml_lines("a:\n  b: x: y\n- path: p\n- q") == [
        ("a:", ""),
        ("  b:", " x: y"),
        ("- path:", " p"),
        ("", "- q"),
    ]


def test_total_time_leaves_the_report_out(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    made.record("report", state="failed", seconds=500.0, error={"code": 1, "reason": "an earlier attempt"})
    run = collect(made.config_uri)
    assert total_seconds(run) == pytest.approx(sum(SECONDS.values()) + 4 * 0.9, abs=1e-3)
    assert judge(run).tone == "good"


def test_command_writes_page_record_and_card(finished: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", finished.config_uri]) == 0
    folder = finished.root / "runs" / finished.run_id

    assert Page((folder / "report" / "index.html").read_text(encoding="utf-8")).all("section")
    assert (folder / "report" / "MODEL_CARD.md").read_text(encoding="utf-8").startswith("---\n")
    assert json.loads((folder / "record.json").read_text(encoding="utf-8"))["run_id"] == finished.run_id
    assert "report/index.html" in capsys.readouterr().out


def test_command_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "config.yaml")]) == 2
    assert main(["--config", str(tmp_path / "runs" / "none" / "config.yaml")]) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("is not the configuration of a run; give <store>/runs/<run id>/config.yaml")
    assert "no such file" in second
    assert not list(tmp_path.iterdir())


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, components.report.page, components.report.card\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'kfp', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
