"""PPO against TRL 1.12's PPOTrainer, the last there is: steps per CPU second, and the reward reached.

    python tests/benchmarks/bench_ppo_trl.py --folder DIR --output DIR [--task stories|medical] [--steps 40] [--seeds 3]

Two tasks: `stories`, whose prompts and answers are of all lengths (stories.py), and `medical`, the example of preset
tiny-cpu, where every prompt has about twenty tokens and every answer about two. Base, reward model and prompts are made
once, by a run of the pipeline up to the reward model, and kept in --folder, as is TRL's environment
(requirements/trl-ppo.txt; torch and what else it needs are this environment's own, so that both run on the same torch).

Both contestants get the same base, the same reward model, the same prompts in the same batches, and no reward
functions, which PPOTrainer does not have. What corresponds to what:

    ours                                    TRL
    rollout_batch_size n                    per_device_train_batch_size n × gradient_accumulation_steps 1
    num_mini_batches 2, num_ppo_epochs 2    the same: 4 optimizer steps a batch (TRL reports how many it made)
    per_device_train_batch_size n/4         a minibatch of n/2 is computed in one piece, which is TRL's only way
    max_completion_length, temperature 1    response_length, temperature 1, stop_token eos
    learning_rate, critic_learning_rate     learning_rate, which it has one of; constant; Adam, no weight decay
    beta, gamma, lam, cliprange(_value)     kl_coef, gamma, lam, cliprange(_value)
    missing_eos_penalty 1                   missing_eos_penalty 1
    max_grad_norm 1e9                       clips no gradients
    policy: LoRA r 16 on all linear layers  the same, as peft_config; reference = adapter off, in both
    critic: the reward adapter, trained on  `TRL`: the same adapter on a copy of the base;
                                            `TRL, whole critic`: all its parameters, as in TRL's own example
    reward: adapter, unmerged               a merged reward model, which is faster

Recomputing activations, bfloat16, sample generations, saving and reporting are off. vf_coef stays at its default: where
policy and critic share no parameter and gradients are not clipped, Adam makes it mean nothing. Differences that remain
are the trainers' own: TRL takes old log-probabilities from sampling, puts the score on the token after the last, and
pads on the left.

CPU seconds are those of the training loop, with one thread. The reward reached is measured by our evaluator for all:
one sample for each held-out prompt from the saved adapter, scored by the reward model, and whether it is the right
answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.drawings import bar_chart, child, line_chart, markdown_table, write_output
from tests.benchmarks.goals import Goal, require
from tests.benchmarks.harness import ROOT, take_turns
from tests.benchmarks.our_ppo import evaluate, train_ours
from tests.benchmarks.ppo_task import SETTINGS, TASKS, make_task, write_task

CONTESTANTS = ("ours", "TRL", "TRL, whole critic")
REQUIREMENTS = Path(__file__).parent / "requirements" / "trl-ppo.txt"
PEER = Path(__file__).parent / "trl_ppo.py"


def peer_python(folder: Path) -> str:
    """The interpreter of TRL's environment, which is made if it is not there."""
    venv = folder / "venv"
    python = venv / "bin" / "python"
    if not (venv / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        found = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            check=True,
            capture_output=True,
            text=True,
        )
        # Ours come last on its path: what the list pins is TRL's own, all else, torch above all, is shared.
        ours = sysconfig.get_paths()["purelib"]
        Path(found.stdout.strip(), "shared.pth").write_text(f"{ours}\n", encoding="utf-8")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
        subprocess.run([*pip, "--ignore-installed", "-r", REQUIREMENTS], check=True)
        (venv / "complete").touch()
    return str(python)


def report(name: str, runs: dict[str, list[dict[str, Any]]], base: dict[str, float], steps: int) -> str:
    """The table, as markdown."""
    right = TASKS[name].right.partition(":")[2]

    def spread(values: list[float]) -> str:
        return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    rates = {c: statistics.median(steps / run["cpu_s"] for run in results) for c, results in runs.items()}
    rows = []
    for contestant, results in runs.items():
        held_out = [run["heldout"] for run in results]
        rows.append(
            [
                contestant,
                f"{rates[contestant]:.3f}",
                f"{rates['ours'] / rates[contestant]:.2f} ×",
                spread([m["reward"] for m in held_out]),
                spread([m[right] for m in held_out]),
                spread([m["kl"] for m in held_out]),
                str(results[0]["optimizer_steps"]),
                f"{results[0]['trainable_parameters']:,}",
            ]
        )
    before = [f"{base['reward']:.3f}", f"{base[right]:.3f}", "0", "0", ""]
    header = ["", "steps/CPU s", "ours is", "held-out reward", right, "KL", "optimizer steps", "trained"]
    return (
        f"# PPO against TRL's PPOTrainer: {name}\n\n{steps} rollout batches, {len(runs['ours'])} seeds; rates are "
        "medians, the rest means with the least and the most.\n\n"
        + markdown_table(header, [["before training", "", "", *before], *rows])
        + "".join(f"\n{goal}\n" for goal in goals(runs))
    )


def goals(runs: dict[str, list[dict[str, Any]]]) -> list[Goal]:
    """At least twice as fast, and no worse by more than the seeds of one contestant differ."""
    found = []
    rates = {c: statistics.median(1 / run["cpu_s"] for run in results) for c, results in runs.items()}
    rewards = {c: [run["heldout"]["reward"] for run in results] for c, results in runs.items()}
    for peer in CONTESTANTS[1:]:
        worse = statistics.mean(rewards[peer]) - statistics.mean(rewards["ours"])
        found += [
            Goal(f"times the steps a CPU second of {peer}", rates["ours"] / rates[peer], at_least=2),
            Goal(f"{peer}'s reward − ours", worse, at_most=max(rewards[peer]) - min(rewards[peer])),
        ]
    return found


def benchmark(folder: Path, output: Path, name: str, steps: int, seeds: int) -> None:
    """Makes what is missing, lets the contestants take turns, seed by seed, and writes the report."""
    folder.mkdir(parents=True, exist_ok=True)
    made, python = make_task(folder, name), peer_python(folder)

    def run(contestant: str, seed: int) -> dict[str, Any]:
        task = str(write_task(folder, name, made, contestant, seed, steps))
        threads = {"OMP_NUM_THREADS": "1"}
        if contestant == "ours":
            result = child(__file__, "--child", "train", "--task", task, **threads)
        else:
            result = child(str(PEER), task, python=python, TRL_EXPERIMENTAL_SILENCE="1", **threads)
        return {**result, "heldout": child(__file__, "--child", "evaluate", "--task", task, **threads)}

    results = take_turns({contestant: partial(run, contestant) for contestant in CONTESTANTS}, seeds)
    untrained = str(write_task(folder, name, made, "base", 0, steps))
    before = child(__file__, "--child", "evaluate", "--task", untrained, OMP_NUM_THREADS="1")
    text = report(name, results, before, steps)
    curves = {
        c: [statistics.mean(values) for values in zip(*(run["rewards"] for run in results[c]), strict=True)]
        for c in CONTESTANTS
    }
    drawings = {
        "rate": bar_chart(
            "CPU seconds a rollout batch", {n: [r["cpu_s"] / steps for r in results[n]] for n in CONTESTANTS}, "s"
        ),
        "reward": line_chart("Reward of the rollouts, mean of the seeds", curves),
    }
    settings = {**SETTINGS, **TASKS[name].settings}
    write_output(output, f"ppo-trl-{name}", text, {"settings": settings, "before": before, "runs": results}, drawings)
    print(text)
    require(goals(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where task and environment are kept from run to run")
    parser.add_argument("--output", type=Path, help="where the report goes; else it is only printed")
    parser.add_argument("--task", default="stories", help=f"what to train on: {' or '.join(TASKS)}")
    parser.add_argument("--steps", type=int, default=40, help="rollout batches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--child", choices=("train", "evaluate"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        task = json.loads(Path(arguments.task).read_text(encoding="utf-8"))
        print(json.dumps(train_ours(task) if arguments.child == "train" else evaluate(task)))
    elif arguments.task not in TASKS:
        parser.error(f"--task {arguments.task}: it is {' or '.join(TASKS)}")
    else:
        sys.path.insert(0, str(ROOT))
        with tempfile.TemporaryDirectory() as temporary:
            folder, output = arguments.folder or Path(temporary, "made"), arguments.output or Path(temporary)
            benchmark(folder, output, arguments.task, arguments.steps, arguments.seeds)


if __name__ == "__main__":
    main()
