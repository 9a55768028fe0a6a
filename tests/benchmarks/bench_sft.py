"""SFT against `trl sft` with its defaults and against padding every row to the full length, as whole processes.

    python -m tests.benchmarks.bench_sft [--runs 3] [--epochs 1] [--folder DIR] [--output DIR]

All train a LoRA of the same shape, from the same base, on the same conversations of the example, equally often, at the
same rate and with equally many conversations in a step, and are measured by one evaluator on the same held-out ones.

- `trl sft` is the command line, with TRL's defaults for the rest: bfloat16, activation checkpointing, padding to the
  longest row of a batch. `trl sft, float32` is the same without the first two, which only cost on this machine.
- `padded` is transformers' Trainer with every row padded to `max_length`, as MedicalGPT pads.
- `ours` is `components.data` and `components.sft`, that is: reading, deduplicating, splitting, tokenising, packing,
  training, and measuring before and after, with checkpoints.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.benchmarks.goals import Goal
from tests.benchmarks.harness import Cost, Figures, Table, measure, take_turns, write_results

MODULE = "tests.benchmarks.bench_sft"
RATE, RANK, ALPHA, MAX_LENGTH, ROWS = 5e-3, 16, 32, 128, 2
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OTHERS_OFF = "\n".join(f"{stage}.enabled=false" for stage in ("pretrain", "reward", "rl", "evaluate"))


@dataclass(frozen=True)
class Task:
    """What all contestants are given.

    Attributes:
        folder: Scratch; `conversations/train.jsonl` are the training conversations for the peers.
        config: Our configuration.
        base: The model to start from.
        dataset: Our dataset, whose held-out side all are measured on.
        batch: Conversations in a step.
        tokens: Tokens of the training conversations, without padding.
        epochs: How often each is seen.
    """

    folder: Path
    config: Path
    base: str
    dataset: Path
    batch: int
    tokens: int
    epochs: int


def prepare(folder: Path, epochs: int) -> Task:
    """Makes the base, unless it is there, and the data."""
    import yaml

    store = folder / "store"
    overrides = f"{OTHERS_OFF}\nsft.num_train_epochs={epochs}"
    arguments = [f"--output={store}", "--run-id=bench", "--preset=tiny-cpu", f"--overrides={overrides}"]
    measure([sys.executable, "-m", "components.prepare", *arguments])
    config = store / "runs" / "bench" / "config.yaml"
    base = yaml.safe_load(config.read_text())["model"]["source"]
    measure(data_command(config, base, store))
    (dataset,) = (store / "artifacts" / "data-sft").iterdir()
    report = json.loads((dataset / "report.json").read_text())
    measure([sys.executable, "-m", MODULE, "--child", "write_conversations", str(folder), str(config)])
    batch = round(ROWS * report["train_rows"] / report["train_packed_rows"])
    return Task(folder, config, base, dataset, batch, report["train_tokens"], epochs)


def write_conversations(folder: str, config: str) -> None:
    """Writes the training side of our split in the form that TRL reads."""
    import yaml

    from components.data.readers import read_rows
    from components.data.records import Conversation
    from components.data.split import Collection
    from components.data.table import write_jsonl

    part = yaml.safe_load(Path(config).read_text())["data"]["sft"]
    rows = read_rows(part["sources"][0]["path"])
    train = []
    for placed in Collection([rows], "sft", part["heldout"], part["split_by"]):
        assert isinstance(placed.record, Conversation)
        *prompt, answer = [asdict(message) for message in placed.record.messages]
        if placed.side == "train":
            train.append({"prompt": prompt, "completion": [answer]})
    write_jsonl(Path(folder, "conversations", "train.jsonl"), train)


def data_command(config: Path, base: str, store: Path) -> list[str]:
    arguments = [f"--config={config}", "--task=sft", f"--input=model={base}", f"--output={store}"]
    return [sys.executable, "-m", "components.data", *arguments]


def ours(task: Task, seed: int) -> tuple[Cost, Path]:
    """The data step and the stage, into a store of their own."""
    store = task.folder / "ours" / str(seed)
    first = measure(data_command(task.config, task.base, store))
    (dataset,) = (store / "artifacts" / "data-sft").iterdir()
    config = task.config.with_name(f"seed-{seed}.yaml")
    config.write_text(task.config.read_text().replace("seed: 0", f"seed: {seed}", 1))
    settings = {
        "learning_rate": RATE,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0,
        "max_steps": -1,
        "train_batch_size": ROWS,
        "per_device_train_batch_size": ROWS,
        "num_eval_prompts": 0,
        "num_samples": 0,
    }
    arguments = [f"--config={config}", f"--input=model={task.base}", f"--input=dataset={dataset}", f"--output={store}"]
    arguments += [f"--set=sft.{name}={value}" for name, value in settings.items()]
    second = measure([sys.executable, "-m", "components.sft", *arguments])
    (adapter,) = (store / "artifacts" / "sft").iterdir()
    cost = Cost(first.wall_s + second.wall_s, first.cpu_s + second.cpu_s, max(first.anonymous_mb, second.anonymous_mb))
    return cost, adapter


def trl(task: Task, seed: int, *, more: Sequence[str] = ()) -> tuple[Cost, Path]:
    """TRL's command line."""
    out = task.folder / "trl"
    arguments = [
        f"--model_name_or_path={task.base}",
        f"--dataset_name={task.folder / 'conversations'}",
        f"--output_dir={out}",
        f"--learning_rate={RATE}",
        f"--num_train_epochs={task.epochs}",
        f"--per_device_train_batch_size={task.batch}",
        f"--seed={seed}",
        "--use_peft",
        f"--lora_r={RANK}",
        f"--lora_alpha={ALPHA}",
        "--lora_dropout=0",
        "--lora_target_modules",
        *TARGETS,
        "--report_to=none",
        "--use_cpu=True",
        *more,
    ]
    # Its cache of tokenised rows would make the second run another one than the first.
    shutil.rmtree(out, ignore_errors=True)
    cache = task.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("trl")), "sft", *arguments]
    return measure(command, HF_DATASETS_CACHE=str(cache)), out


def padded(task: Task, seed: int) -> tuple[Cost, Path]:
    """A trainer whose rows are all of the full length."""
    out = task.folder / "padded"
    shutil.rmtree(out, ignore_errors=True)
    child = [str(task.folder), task.base, str(out), str(task.batch), str(task.epochs), str(seed)]
    return measure([sys.executable, "-m", "tests.benchmarks.padded_sft", *child]), out


def heldout_loss(base: str, dataset: str, adapter: str, file: str) -> None:
    """Writes an adapter's loss on the held-out conversations, as our evaluator measures it."""
    from peft import PeftModel

    from components.common.device import device_policy
    from components.common.evaluation import likelihood
    from components.common.models import load_causal_lm
    from components.data.table import TokenTable

    policy = device_policy()
    model = PeftModel.from_pretrained(load_causal_lm(Path(base), policy), adapter)
    table = TokenTable.load(Path(dataset) / "heldout")
    loss = likelihood(model, table, range(len(table)), policy, max_tokens=8192).loss
    Path(file).write_text(json.dumps(loss))


def contest(train: Callable[[Task, int], tuple[Cost, Path]], task: Task, seed: int) -> Figures:
    """Trains once and measures the result."""
    cost, adapter = train(task, seed)
    file = task.folder / "loss.json"
    child = [task.base, str(task.dataset), str(adapter), str(file)]
    measure([sys.executable, "-m", MODULE, "--child", "heldout_loss", *child])
    speed = {"useful tokens a CPU s": task.tokens * task.epochs / cost.cpu_s}
    return {**speed, "held-out loss": json.loads(file.read_text()), **asdict(cost)}


def benchmark(task: Task, runs: int) -> Table:
    """Lets all train."""
    lean = ("--bf16=False", "--gradient_checkpointing=False")
    trainers: dict[str, Callable[[Task, int], tuple[Cost, Path]]] = {
        "trl sft": trl,
        "trl sft, float32": functools.partial(trl, more=lean),
        "padded": padded,
        "ours": ours,
    }
    contestants = {name: functools.partial(contest, train, task) for name, train in trainers.items()}
    figure = "useful tokens a CPU s"
    note = f"{task.tokens} tokens an epoch, {task.epochs} epochs, {task.batch} conversations a step."
    title = "SFT, from conversations to an adapter"
    table = Table(title, take_turns(contestants, runs), plotted=figure, higher_is_better=[figure], notes=[note])
    goals = []
    for peer in ("trl sft", "padded"):
        speed = table.median("ours", figure) / table.median(peer, figure)
        loss = table.median("ours", "held-out loss") / table.median(peer, "held-out loss")
        goals += [Goal(f"times the {figure} of {peer}", speed, at_least=2), Goal("its loss ×", loss, at_most=1.01)]
    return replace(table, goals=goals)


def main() -> None:
    """Runs the comparison, or one of its children."""
    if sys.argv[1:2] == ["--child"]:
        children: dict[str, Callable[..., None]] = {
            "write_conversations": write_conversations,
            "heldout_loss": heldout_loss,
        }
        children[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep base and results here")
    parser.add_argument("--output", type=Path, help="folder for table, figures and plot")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        shutil.rmtree(folder / "ours", ignore_errors=True)
        write_results(arguments.output, "sft", [benchmark(prepare(folder, arguments.epochs), arguments.runs)])


if __name__ == "__main__":
    main()
