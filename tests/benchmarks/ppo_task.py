"""What bench_ppo_trl trains on: base, reward model and prompts, made once, and the settings that both sides get."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.drawings import environment

SETTINGS: dict[str, Any] = {
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "temperature": 1.0,
    "learning_rate": 1e-3,
    "beta": 0.05,
    "gamma": 1.0,
    "lam": 0.95,
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "missing_eos_penalty": 1.0,
}


@dataclass(frozen=True)
class Task:
    """What both are trained on.

    Attributes:
        arguments: Of the run that makes base, reward model and prompts.
        settings: What differs from task to task.
        right: The function that says whether an answer is right; measured only.
    """

    arguments: tuple[str, ...]
    settings: dict[str, int]
    right: str


TASKS = {
    "stories": Task(
        ("--preset", str(Path(__file__).parent / "stories.yaml")),
        {"rollout_batch_size": 64, "max_completion_length": 112},
        "tests.benchmarks.stories:right_sounds",
    ),
    "medical": Task(
        ("--preset", "tiny-cpu", "rl.enabled=false", "evaluate.num_eval_prompts=8"),
        {"rollout_batch_size": 128, "max_completion_length": 6},
        "pipelines.examples.medical_coding.rewards:exact_answer",
    ),
}


def make_task(folder: Path, name: str) -> dict[str, str]:
    """Runs the pipeline up to the merged reward model, unless that is there; says where its results are."""
    from components.launcher.record import Run

    store = folder / name / "store"
    arguments = ["run", *TASKS[name].arguments, "--seed", "0", "--store", str(store), "--run-id", "task"]
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], env=environment(), check=True)
    steps = {record.step: record.uri for record in Run.of_config(f"{store}/runs/task/config.yaml").steps()}
    (prompts,) = (store / "artifacts" / "data-rl").iterdir()
    return {
        "base": steps["merge-sft"],
        "reward_adapter": steps["reward"],
        "reward_model": steps["merge-reward"],
        "data": str(prompts),
        "right": TASKS[name].right,
    }


def write_task(folder: Path, name: str, made: dict[str, str], contestant: str, seed: int, steps: int) -> Path:
    """Writes what one run of one contestant has to do, prompts included."""
    from components.common.chat import Chat
    from components.common.tokenizer import load_tokenizer
    from components.rl.config import RlConfig
    from components.rl.rollout import Prompts, prompt_rows

    settings = {**SETTINGS, **TASKS[name].settings}
    out = folder / name / "runs" / f"{contestant.replace(', ', '-').replace(' ', '-')}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("adapter*"):
        stale.unlink()
    prompts = Prompts.load(Path(made["data"]) / "train")
    adapter = json.loads((Path(made["reward_adapter"]) / "adapter_config.json").read_text(encoding="utf-8"))
    rows = [prompt_rows(range(len(prompts)), s, settings["rollout_batch_size"], seed) for s in range(steps)]
    lora = RlConfig().lora
    task = {
        **settings,
        **made,
        "prompts": [prompts.table.ids(row).tolist() for batch in rows for row in batch],
        "output": str(out),
        "seed": seed,
        "steps": steps,
        "stop": Chat(load_tokenizer(Path(made["base"]))).end_of_turn_id,
        "lora_r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "target_modules": adapter["target_modules"],
        "value_model": "whole" if "whole" in contestant else "adapter",
    }
    path = out / "task.json"
    path.write_text(json.dumps(task), encoding="utf-8")
    return path
