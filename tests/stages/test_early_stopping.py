"""A stage that gets no better on held-out data ends early, with the weights that were best."""

import json

import pytest

from tests.support.commands import python

SETTINGS = ("learning_rate=0.02", "lr_scheduler_type=constant", "eval_steps=5", "load_best_model_at_end=true")


def test_training_ends_when_the_heldout_loss_falls_no_more(toy_run, tmp_path):
    given = ["--config", str(toy_run.config), "--output", str(tmp_path)]
    given += ["--input", f"model={toy_run.folder('merge-pretrain')}", "--input", f"dataset={toy_run.dataset('sft')}"]
    for setting in (*SETTINGS, "early_stopping_patience=2", "max_steps=400", "logging_steps=1"):
        given += ["--set", f"sft.{setting}"]
    result = python("-m", "components.sft", *given)
    assert result.returncode == 0, result.stderr
    (artifact,) = (tmp_path / "artifacts" / "sft").iterdir()
    curve = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    seen = {step["step"]: step["heldout_loss"] for step in curve if "heldout_loss" in step}
    best = min(seen, key=seen.get)
    assert list(seen) == list(range(5, best + 11, 5))
    assert len(curve) == best + 10 < 400
    assert f"stops early after step {best + 10}" in result.stdout
    after = json.loads((artifact / "manifest.json").read_text())["metrics"]["after"]["loss"]
    assert after == pytest.approx(seen[best], rel=1e-4)
    assert after < seen[best + 10]
