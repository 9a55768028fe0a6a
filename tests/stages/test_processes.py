"""Two processes give what one gives: the same curves, one writer."""

import json

import pytest

from tests.support.commands import python

SETTINGS = {
    "sft": ["sft.max_steps=6", "sft.logging_steps=1", "sft.train_batch_size=8"],
    "reward": ["reward.max_steps=4", "reward.logging_steps=1"],
    "rl": ["rl.max_steps=3"],
}


@pytest.mark.parametrize("stage", SETTINGS)
def test_curves_do_not_depend_on_the_number_of_processes(toy_run, tmp_path, stage):
    inputs = {name: parent.uri for name, parent in toy_run.manifest(stage).parents.items()}
    arguments = ["--config", str(toy_run.config)]
    arguments += [a for name, uri in inputs.items() for a in ("--input", f"{name}={toy_run.store / uri}")]
    arguments += [a for setting in SETTINGS[stage] for a in ("--set", setting)]
    curves = {}
    for processes in (1, 2):
        store = tmp_path / str(processes)
        result = python("-m", f"components.{stage}", *arguments, "--output", str(store), "--nproc", str(processes))
        assert result.returncode == 0, result.stderr
        (artifact,) = (store / "artifacts" / stage).iterdir()
        assert list((store / ".scratch").iterdir()) == []
        curves[processes] = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    assert len(curves[1]) == len(curves[2]) > 2
    for one, two in zip(curves[1], curves[2], strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_an_error_on_a_rank_is_told_once_with_its_own_exit_code(toy_run, tmp_path):
    inputs = {name: parent.uri for name, parent in toy_run.manifest("sft").parents.items()}
    arguments = ["--config", str(toy_run.config), "--output", str(tmp_path), "--nproc", "2"]
    arguments += [a for name, uri in inputs.items() for a in ("--input", f"{name}={toy_run.store / uri}")]
    result = python("-m", "components.sft", *arguments, "--set", "sft.train_batch_size=7")
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: train_batch_size 7 cannot be shared by 2 processes")
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [last]
    assert not list(tmp_path.rglob("manifest.json"))
