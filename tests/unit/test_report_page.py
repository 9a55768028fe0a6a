"""The report's page: complete by itself, in the order in which it is read, safe against what data say."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from components.report.card import front_matter, model_card
from components.report.collect import collect
from tests.support.report_page import page_of
from tests.support.report_run import EVIL, VARIANTS, make_run
from tests.support.report_store import Made


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


def test_the_script_is_the_one_that_the_page_allows(finished_run: Made) -> None:
    page = page_of(finished_run)
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


def test_the_reader_meets_the_run_in_order(finished_run: Made) -> None:
    page = page_of(finished_run)
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
