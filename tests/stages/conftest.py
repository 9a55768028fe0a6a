"""One whole run on the toy world, shared by the tests of the stages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from components.common.manifest import Manifest
from components.launcher.record import Run, StepRecord
from tests.support.commands import ROOT, rlhf

TOY = str(ROOT / "tests" / "support" / "toy.yaml")


@dataclass(frozen=True)
class ToyRun:
    """A finished run: its store and its steps by name."""

    store: Path
    run: Run
    output: str

    @property
    def config(self) -> Path:
        return Path(self.run.config_uri)

    @property
    def steps(self) -> dict[str, StepRecord]:
        return {record.step: record for record in self.run.steps()}

    def folder(self, step: str) -> Path:
        """Folder of a step's artifact."""
        return Path(self.steps[step].uri)

    def manifest(self, step: str) -> Manifest:
        """Manifest of a step's artifact."""
        return Manifest.model_validate_json((self.folder(step) / "manifest.json").read_bytes())

    def metrics(self, step: str) -> dict[str, Any]:
        """What a step measured."""
        return self.manifest(step).metrics

    def dataset(self, task: str) -> Path:
        """Folder of a stage's dataset."""
        (found,) = (self.store / "artifacts" / f"data-{task}").iterdir()
        return found

    def curve(self, step: str, name: str) -> list[float]:
        """A curve from a stage's metrics.jsonl."""
        lines = (self.folder(step) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)[name] for line in lines]


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> ToyRun:
    """Made once, also when several workers share the tests: the others wait."""
    return _run(tmp_path_factory, "first")


@pytest.fixture(scope="session")
def toy_dpo(toy_run, tmp_path_factory) -> ToyRun:
    """A run of the dpo pipeline in the same store."""
    return _run(tmp_path_factory, "dpo", str(ROOT / "pipelines" / "dpo.py"))


@pytest.fixture
def run_of(request) -> Callable[[str], ToyRun]:
    """The run that has a stage."""
    return lambda stage: request.getfixturevalue("toy_dpo" if stage == "dpo" else "toy_run")


def shared_folder(tmp_path_factory, name: str) -> Path:
    """A folder that all workers of this test run have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def _run(tmp_path_factory, name: str, *arguments: str) -> ToyRun:
    folder = shared_folder(tmp_path_factory, "toy")
    output = folder / f"{name}.txt"
    with FileLock(folder / "lock"):
        if not output.exists():
            result = rlhf("run", *arguments, "--preset", TOY, "--run-id", name, cwd=folder)
            assert result.returncode == 0, result.stdout + result.stderr
            output.write_text(result.stdout)
    store = folder / "rlhf-store"
    return ToyRun(store, Run.of_config(f"{store}/runs/{name}/config.yaml"), output.read_text())
