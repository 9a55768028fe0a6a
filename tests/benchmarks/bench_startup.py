"""Time from the start of a process to the first optimizer step, against importing the libraries that others train with.

    python -m tests.benchmarks.bench_startup [--runs 5] [--output DIR]

The stages run as they are, with a tiny model and without measuring it before; they end in the moment in which the first
step is done. The peer only imports SFTTrainer, peft and datasets, and does nothing with them.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.common.artifacts import Manifest, commit, list_files
from components.common.store import DirectoryStore
from components.data.table import build_table, in_rows, write_jsonl
from components.data.tokenise import Tokens
from tests.benchmarks.goals import Goal
from tests.benchmarks.harness import Figures, Table, measure, take_turns, write_results

PEER = "import os; from trl import SFTTrainer; import peft, datasets; os._exit(0)"
STAGES = ("pretrain", "sft")
CONFIG = "{stage}: {{max_steps: 2, train_batch_size: 2, num_samples: 0}}\n"


def build(folder: Path) -> None:
    """Writes a model of two layers, and for each stage a dataset of random tokens."""
    from transformers import AutoModelForCausalLM

    from components.prepare.config import ScratchModel
    from components.prepare.scratch import make_config, make_tokenizer

    tokenizer = make_tokenizer(["the cow said moo"] * 20, 300)
    config = make_config(ScratchModel(hidden_size=64, num_hidden_layers=2), tokenizer)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    rows = [Tokens(rng.integers(3, len(tokenizer), 20), np.arange(20) > 9) for _ in range(40)]
    table = in_rows(build_table(rows, len(tokenizer)), 64)
    turns = [{"role": "user", "content": "moo"}, {"role": "assistant", "content": "moo"}]
    store = DirectoryStore(folder / "store")
    for stage in STAGES:
        made = store.scratch()
        for side in ("train", "heldout"):
            table.save(made / side)
        write_jsonl(made / "heldout" / "rows.jsonl", [{"messages": turns}] * 40)
        manifest = Manifest(kind="dataset", stage=f"data-{stage}", key="random", files=list_files(made))
        commit(store, f"artifacts/data-{stage}/random", made, manifest)


def first_step(stage: str, arguments: list[str]) -> None:
    """Runs a stage up to its first optimizer step, and ends the process there."""
    import importlib

    from components.common.entry import stage_main

    def load_run() -> Any:
        module = importlib.import_module(f"components.{stage}.stage")
        trainer = importlib.import_module("components.common.trainer")
        module.evaluate = lambda *_: ({}, [])
        trainer.StageCallback.on_step_end = lambda *_, **__: os._exit(0)
        return module.run

    spec = importlib.import_module(f"components.{stage}.config").SPEC
    sys.exit(stage_main(spec, load_run, arguments))


def start(stage: str, folder: Path, number: int) -> Figures:
    """Starts a stage anew, in a store of its own."""
    config = folder / f"{stage}.yaml"
    config.write_text(CONFIG.format(stage=stage), encoding="utf-8")
    inputs = {"model": folder / "model", "dataset": folder / "store" / "artifacts" / f"data-{stage}" / "random"}
    given = [f"--input={name}={uri}" for name, uri in inputs.items()]
    arguments = [f"--config={config}", *given, f"--output={folder / f'{stage}-{number}'}"]
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
        build(folder)
        stages = {f"{stage} to its first step": functools.partial(start, stage, folder) for stage in STAGES}
        results = take_turns({"import SFTTrainer, peft, datasets": peer, **stages}, arguments.runs)
    table = Table("From process start", results, plotted="cpu_s")
    goals = [Goal(f"{name}: wall time ×", 1 / table.ratio(name, "wall_s"), at_most=1.2) for name in stages]
    write_results(arguments.output, "startup", [replace(table, goals=goals)])


if __name__ == "__main__":
    main()
