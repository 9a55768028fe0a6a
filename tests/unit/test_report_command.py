"""The report as a command, and the model card that it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.report.__main__ import main
from components.report.card import front_matter, model_card
from components.report.collect import collect
from tests.support.report_page import Page
from tests.support.report_run import VARIANTS, make_run
from tests.support.report_store import Made


def test_command_writes_page_record_and_card(finished_run: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", finished_run.config_uri]) == 0
    folder = finished_run.root / "runs" / finished_run.run_id

    assert Page((folder / "report" / "index.html").read_text(encoding="utf-8")).all("section")
    assert (folder / "report" / "MODEL_CARD.md").read_text(encoding="utf-8").startswith("---\n")
    assert json.loads((folder / "record.json").read_text(encoding="utf-8"))["run_id"] == finished_run.run_id
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


def test_model_card_has_front_matter_that_the_hub_reads(finished_run: Made) -> None:
    from huggingface_hub import ModelCard

    text = model_card(collect(finished_run.config_uri))
    assert text is not None
    data: Any = ModelCard(text).data

    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    results = {result.metric_type: result.metric_value for result in data.eval_results or []}
    assert results == {"reward": 1.871, "exact_answer": 0.8125}
    assert data.base_model is None
    for words in ("## Limitations", finished_run.digests["merge-rl"], "exact match 1.9 % → 71.1 %", "LoRA of rank 16"):
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
