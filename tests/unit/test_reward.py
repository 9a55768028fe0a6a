"""A pair's margin is read, carried and trained with."""

import json
import math

import numpy as np
import pytest

from components.common.entry import stage_main
from components.data.__main__ import main as data_main
from components.reward.config import SPEC
from tests.support.models import tiny_model


@pytest.fixture
def made(tmp_path, tokenizer):
    """Makes a reward dataset whose pairs have these margins in turn; returns it and the arguments it was made with."""
    tiny_model("llama", tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def make(*margins):
        pair = {"chosen": "moo", "rejected": "woof"}
        rows = [
            {**pair, "prompt": f"What did the cow say {i}?", "margin": margins[i % len(margins)]} for i in range(40)
        ]
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        settings = {
            "data": {"reward": {"sources": str(tmp_path / "pairs.jsonl"), "heldout": 0.2, "max_length": 64}},
            "reward": {"max_steps": 1, "train_batch_size": 16},
        }
        (tmp_path / "run.yaml").write_text(json.dumps(settings))
        arguments = ["--config", str(tmp_path / "run.yaml"), "--input", f"model={tmp_path / 'model'}"]
        arguments += ["--output", str(tmp_path / "store")]
        assert data_main(arguments) == 0
        (dataset,) = (tmp_path / "store/artifacts/data-reward").iterdir()
        return dataset, arguments

    return make


def load_run():
    from components.reward.stage import run

    return run


@pytest.mark.parametrize(("margin", "loss"), [(None, math.log(2)), (1.5, math.log(1 + math.exp(1.5)))])
def test_the_first_loss_is_that_of_the_margins(made, margin, loss):
    """The head starts at zero, so that all scores are 0 and a pair's loss is −log σ(−margin)."""
    dataset, arguments = made(margin)
    assert stage_main(SPEC, load_run, [*arguments, "--input", f"dataset={dataset}"]) == 0
    (adapter,) = (dataset.parents[1] / "reward").iterdir()
    (first,) = map(json.loads, (adapter / "metrics.jsonl").read_text().splitlines())
    assert first["loss"] == pytest.approx(loss, rel=1e-5)


def test_a_pair_without_a_margin_among_pairs_with_one_has_none(made):
    dataset, _ = made(2.0, None)
    margins = np.load(dataset / "train" / "margin.npy")
    assert set(margins.tolist()) == {0.0, 2.0}
