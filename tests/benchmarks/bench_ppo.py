"""PPO on one base against PPO on four separate models: memory and CPU time at 100 M parameters.

    python tests/benchmarks/bench_ppo.py --output DIR [--size 100M|tiny] [--runs 5] [--steps 1] [--folder DIR]

Both contestants run the same settings (the rl stage's defaults), the same prompts and the same random numbers, and come
to the same numbers bit by bit, which is checked at the end. `one base` is components.rl; `four models` is the plain
reference of tests/support: policy, reference, critic and reward model, each loaded by PEFT and transformers from its
own files, adapters unmerged.

Each of the four has files of its own, as models of separate origin have: weights stay mapped from their file, and one
file mapped four times would be one piece of memory. Peak memory is VmHWM, weights included; `beyond imports` leaves out
what the process held before it loaded anything. CPU seconds are those of the loop: rollouts, scores, updates.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.drawings import bar_chart, child, markdown_table, medians, resident_mb, write_output
from tests.benchmarks.goals import Goal, require
from tests.benchmarks.harness import take_turns

CONTESTANTS = ("one base", "four models")
ROLES = ("policy", "reference", "critic", "reward")
SIZES: dict[str, dict[str, int]] = {
    "100M": {
        "vocab_size": 8192,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}
PROMPTS, SHORTEST, LONGEST = 512, 16, 48
PAD, STOP = 0, 1
SEED = 0


def build(folder: Path, size: str) -> None:
    """Makes a random llama in float32, a copy for each role, and a random reward adapter of rank 16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.support.models import save_reward_adapter

    torch.manual_seed(SEED)
    special = {"pad_token_id": PAD, "eos_token_id": STOP, "bos_token_id": None, "tie_word_embeddings": False}
    LlamaForCausalLM(LlamaConfig(**SIZES[size], **special)).save_pretrained(folder / "policy")
    for role in ROLES[1:]:
        shutil.copytree(folder / "policy", folder / role)
    save_reward_adapter(folder / "policy", folder / "adapter", PAD, r=16)


def prompts(size: str) -> Any:
    """Random prompts of random lengths."""
    import numpy as np

    from components.data.table import build_table
    from components.data.tokenise import Tokens
    from components.rl.rollout import Prompts

    rng = np.random.default_rng(SEED)
    vocab_size = SIZES[size]["vocab_size"]
    lengths = rng.integers(SHORTEST, LONGEST + 1, PROMPTS)
    rows = [Tokens(rng.integers(STOP + 1, vocab_size, length)) for length in lengths]
    return Prompts(build_table(rows, vocab_size), [{"messages": [{"content": ""}]} for _ in rows])


def train(contestant: str, folder: Path, size: str, steps: int) -> dict[str, Any]:
    """Runs one contestant in this process and says what it took."""
    from components.rl.config import RlConfig
    from tests.support import one_base, plain_ppo
    from tests.support.four_models import FourModels

    config = RlConfig(max_steps=steps)
    imported = resident_mb("VmRSS")
    trainer: one_base.Trainer | plain_ppo.Trainer
    if contestant == "one base":
        roles = one_base.load_roles(folder / "policy", folder / "adapter", config, SEED, folder / "scratch")
        trainer = one_base.Trainer(roles, prompts(size), config, SEED, STOP)
    else:
        four = FourModels.load({role: folder / role for role in ROLES}, folder / "adapter", config, SEED)
        trainer = plain_ppo.Trainer(four, prompts(size), config, SEED, STOP)
    began, began_cpu = time.monotonic(), time.process_time()
    metrics = [trainer.step(step).metrics for step in range(steps)]
    cpu, wall, peak = time.process_time() - began_cpu, time.monotonic() - began, resident_mb()
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_mb": peak,
        "imported_mb": imported,
        "beyond_imports_mb": peak - imported,
        "metrics": metrics,
    }


def report(size: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    """The table of medians, as markdown."""
    fields = ("cpu_s", "peak_mb", "beyond_imports_mb")
    found = {name: medians(results, fields) for name, results in runs.items()}
    rows = [[name, *(f"{found[name][field]:.0f}" for field in fields)] for name in CONTESTANTS]
    ours, theirs = (found[name] for name in CONTESTANTS)
    rows.append(["ratio", *(f"{ours[field] / theirs[field]:.3f}" for field in fields)])
    count = len(runs[CONTESTANTS[0]])
    steps = len(runs[CONTESTANTS[0]][0]["metrics"])
    same = len({json.dumps(result["metrics"]) for results in runs.values() for result in results}) == 1
    return (
        f"# PPO on one base against four separate models, {size}\n\n"
        f"{steps} rollout batches of the default settings; medians of {count} runs that took turns.\n\n"
        + markdown_table(["", "CPU s of the loop", "peak MB", "MB beyond imports"], rows)
        + f"\nAll runs of both came to {'the same metrics bit by bit' if same else 'DIFFERENT METRICS'}.\n\n"
        + "\n".join(map(str, goals(runs)))
        + "\n"
    )


def goals(runs: dict[str, list[dict[str, Any]]]) -> list[Goal]:
    """What one base has to show; a tenth more of CPU time may be paid for the memory."""
    ours, theirs = (medians(runs[name], ("cpu_s", "peak_mb")) for name in CONTESTANTS)
    return [
        Goal("peak memory ×", ours["peak_mb"] / theirs["peak_mb"], at_most=0.65),
        Goal("CPU seconds ×", ours["cpu_s"] / theirs["cpu_s"], at_most=1.1),
        Goal("different metrics", len({json.dumps(r["metrics"]) for found in runs.values() for r in found}), at_most=1),
    ]


def benchmark(size: str, runs: int, steps: int, folder: Path, output: Path) -> None:
    """Builds what is missing, lets both take turns, and writes the report."""
    arguments = ["--size", size, "--steps", str(steps), "--folder", str(folder)]
    if not (folder / "adapter").is_dir():
        child(__file__, "--child", "build", *arguments)
    results = take_turns(
        {name: lambda _, name=name: child(__file__, "--child", name, *arguments) for name in CONTESTANTS}, runs
    )
    text = report(size, results)
    charts = {
        field: bar_chart(title, {name: [run[field] for run in results[name]] for name in CONTESTANTS}, unit)
        for field, title, unit in (("peak_mb", "Peak memory", "MB"), ("cpu_s", "CPU time of the loop", "s"))
    }
    write_output(output, f"ppo-{size}", text, {"size": size, "runs": results}, charts)
    print(text)
    if size != "tiny":  # whose libraries are larger than its models
        require(goals(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="100M", choices=SIZES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="rollout batches of each run")
    parser.add_argument("--folder", type=Path, help="keep the models here (2 GB at 100M)")
    parser.add_argument("--output", type=Path, help="where the report goes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "build":
        build(arguments.folder, arguments.size)
        print("{}")
    elif arguments.child:
        print(json.dumps(train(arguments.child, arguments.folder, arguments.size, arguments.steps)))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.folder or Path(temporary)) / arguments.size
            folder.mkdir(parents=True, exist_ok=True)
            output = arguments.output or Path(temporary)
            benchmark(arguments.size, arguments.runs, arguments.steps, folder, output)


if __name__ == "__main__":
    main()
