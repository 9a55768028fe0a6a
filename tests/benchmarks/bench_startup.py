"""Time from the start of a process to the first optimizer step, against importing the libraries that others train with.

    python -m tests.benchmarks.bench_startup [--runs 5] [--output DIR]

The stages run as they are, on what a run of the toy world has left, without measuring before they train; they end in
the moment in which the first optimizer step is done. The peer only imports SFTTrainer, peft and datasets, and does
nothing with them.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.common.directory_store import DirectoryStore
from components.launcher.record import Run
from tests.benchmarks.goals import Goal
from tests.benchmarks.harness import ROOT, Figures, Table, measure, take_turns, write_results

PEER = "import os; from trl import SFTTrainer; import peft, datasets; os._exit(0)"
TOY = ROOT / "tests" / "support" / "toy.yaml"
# What a stage starts from besides its dataset: for each input the step that made it.
INPUTS = {
    "pretrain": {"model": "prepare"},
    "sft": {"model": "merge-pretrain"},
    "reward": {"model": "merge-sft"},
    "rl": {"model": "merge-sft", "reward": "reward"},
}


def build(store: Path) -> dict[str, str]:
    """Runs the toy world; returns the URI of what each step has made."""
    command = [sys.executable, "-m", "pipelines.cli", "run", f"--preset={TOY}", f"--store={store}", "--run-id=toy"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return {record.step: record.uri for record in Run(DirectoryStore(store), "toy").steps()}


def first_step(stage: str, arguments: list[str]) -> None:
    """Runs a stage up to its first optimizer step, and ends the process there."""
    from components.common.entry import stage_main

    spec = importlib.import_module(f"components.{stage}.config").SPEC
    code = stage_main(spec, functools.partial(_load_run, stage), arguments)
    sys.exit(f"{stage} has ended with exit code {code} and without an optimizer step")


def _load_run(stage: str) -> Any:
    module: Any = importlib.import_module(f"components.{stage}.stage")
    module.evaluate = lambda *_: ({}, [])
    if stage == "rl":
        update: Any = importlib.import_module("components.rl.update")
        step = update.apply_gradients
        update.apply_gradients = lambda *given: (step(*given), os._exit(0))
    else:
        callback: Any = importlib.import_module("components.common.trainer").StageCallback
        callback.on_step_end = lambda *_, **__: os._exit(0)
    return module.run


def start(stage: str, folder: Path, made: dict[str, str], number: int) -> Figures:
    """Starts a stage anew, in a store of its own."""
    (dataset,) = (folder / "store" / "artifacts" / f"data-{stage}").iterdir()
    inputs = {"dataset": dataset, **{name: made[step] for name, step in INPUTS[stage].items()}}
    given = [f"--input={name}={uri}" for name, uri in inputs.items()]
    arguments = [f"--config={TOY}", *given, f"--output={folder / f'{stage}-{number}'}"]
    return asdict(measure([sys.executable, "-m", "tests.benchmarks.bench_startup", "--child", stage, *arguments]))


def peer(_: int) -> Figures:
    """Imports what TRL's users import."""
    return asdict(measure([sys.executable, "-c", PEER]))


def main() -> None:
    """Runs the comparison, or one of its children."""
    if sys.argv[1:2] == ["--child"]:
        first_step(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, help="folder for table, figures and plot")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = build(folder / "store")
        stages = {f"{stage} to its first step": functools.partial(start, stage, folder, made) for stage in INPUTS}
        results = take_turns({"import SFTTrainer, peft, datasets": peer, **stages}, arguments.runs)
    table = Table("From process start", results, plotted="cpu_s")
    goals = [Goal(f"{name}: wall time ×", 1 / table.ratio(name, "wall_s"), at_most=1.2) for name in stages]
    write_results(arguments.output, "startup", [replace(table, goals=goals)])


if __name__ == "__main__":
    main()
