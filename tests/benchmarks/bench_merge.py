"""Merge against PEFT (load, merge_and_unload, save_pretrained): wall time, CPU time and memory of whole processes.

    python -m tests.benchmarks.bench_merge [--size 245M 1.1B] [--runs 3] [--folder DIR] [--output DIR]

`merge` does what PEFT does; `components.merge` is the whole command, which also hashes its inputs and its result and
forces it to the disk.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.goals import Goal
from tests.benchmarks.harness import Figures, Table, measure, take_turns, write_results

MODULE = "tests.benchmarks.bench_merge"
# As many threads as the libraries think fit, whatever the benchmark was started with.
DEFAULT_THREADS = ["env", "-u", "OMP_NUM_THREADS", "-u", "MKL_NUM_THREADS"]

SIZES: dict[str, tuple[dict[str, int], str]] = {
    "245M": (
        {
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 14,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
        "100MB",
    ),
    "1.1B": (
        {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
        },
        "500MB",
    ),
}


def build(folder: Path, size: str) -> None:
    """Makes a random llama in float16 and a LoRA adapter of rank 16 on all its linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, shard = SIZES[size]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, tie_word_embeddings=False, **shape))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base", max_shard_size=shard)
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(folder / "adapter")


def merge_with_peft(folder: Path, out: Path, size: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype="auto")
    model = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    model.save_pretrained(out, max_shard_size=SIZES[size][1])


def merge_with_ours(folder: Path, out: Path, size: str) -> None:
    from components.common.artifacts import Artifact
    from components.common.directory_store import DirectoryStore
    from components.common.stage import Job, Plan
    from components.merge.config import SPEC, MergeConfig
    from components.merge.stage import run

    inputs = {
        "base": Artifact("base", folder / "base", "", "model"),
        "adapter": Artifact("adapter", folder / "adapter", "", "adapter"),
    }
    out.mkdir()
    run(Job(Plan(SPEC, MergeConfig(), 0, inputs, DirectoryStore(out), "", ""), out, out))


CONTESTANTS: dict[str, Callable[[Path, Path, str], None]] = {"peft": merge_with_peft, "merge": merge_with_ours}


def command(contestant: str, folder: Path, out: Path, size: str) -> list[str]:
    if contestant in CONTESTANTS:
        return [sys.executable, "-m", MODULE, "--child", contestant, "--size", size, "--folder", str(folder), str(out)]
    config = folder / "merge.yaml"
    config.write_text("merge: {}\n", encoding="utf-8")
    inputs = [f"--input={name}={folder / name}" for name in ("base", "adapter")]
    return [sys.executable, "-m", "components.merge", f"--config={config}", *inputs, f"--output={out}"]


def merge(contestant: str, folder: Path, size: str, _: int) -> Figures:
    """Merges once."""
    out = folder / "out" / contestant
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(exist_ok=True)
    return asdict(measure([*DEFAULT_THREADS, *command(contestant, folder, out, size)]))


def unequal(one: Path, two: Path) -> tuple[int, int, float]:
    """Elements, unequal elements and largest difference between two folders of weights."""
    from safetensors import safe_open

    def tensors(folder: Path) -> dict[str, Path]:
        found = {}
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                found.update(dict.fromkeys(file.keys(), path))
        return found

    left, right = tensors(one), tensors(two)
    assert left.keys() == right.keys()
    total = differ = 0
    largest = 0.0
    for name in left:
        with safe_open(left[name], "pt") as first, safe_open(right[name], "pt") as second:
            a, b = first.get_tensor(name), second.get_tensor(name)
        total += a.numel()
        differ += int((a != b).sum())
        largest = max(largest, float((a.float() - b.float()).abs().max()))
    return total, differ, largest


def benchmark(size: str, runs: int, folder: Path) -> Table:
    """Merges a model of a size with each contestant, and compares the results."""
    if not (folder / "adapter").is_dir():
        build_command = [sys.executable, "-m", MODULE, "--child", "build", "--size", size, "--folder", str(folder)]
        subprocess.run(build_command, check=True)
    names = ("peft", "merge", "components.merge")
    results = take_turns({name: functools.partial(merge, name, folder, size) for name in names}, runs)
    total, differ, largest = unequal(folder / "out" / "peft", folder / "out" / "merge")
    note = f"Unequal to PEFT: {differ} of {total} elements, largest difference {largest:.3g}."
    table = Table(f"Merging {size} parameters", results, plotted="wall_s", notes=[note])
    return replace(table, goals=goals(size, table))


def goals(size: str, table: Table) -> list[Goal]:
    """PEFT holds the whole model, so what it needs grows with it; ours does not."""
    faster, anonymous = table.ratio("merge", "wall_s"), table.median("merge", "anonymous_mb")
    if size == "1.1B":
        return [Goal("times as fast as PEFT", faster, at_least=2.5), Goal("MB", anonymous, at_most=260)]
    less = table.ratio("merge", "anonymous_mb")
    return [Goal("times as fast as PEFT", faster, at_least=3), Goal("part of PEFT's memory, 1 in", less, at_least=7)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep models here (about three times their size is needed)")
    parser.add_argument("--output", type=Path, help="folder for table, figures and plot")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("out", nargs="?", type=Path, help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    if arguments.child == "build":
        build(arguments.folder, arguments.size[0])
    elif arguments.child:
        CONTESTANTS[arguments.child](arguments.folder, arguments.out, arguments.size[0])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            tables = []
            for size in arguments.size:
                folder = (arguments.folder or Path(temporary)) / size
                folder.mkdir(parents=True, exist_ok=True)
                tables.append(benchmark(size, arguments.runs, folder))
        write_results(arguments.output, "merge", tables)


if __name__ == "__main__":
    main()
