"""Merge against PEFT (load, merge_and_unload, save_pretrained): wall time, CPU time and memory of whole processes.

    python tests/benchmarks/bench_merge.py [--size 245M|1.1B ...] [--runs 3] [--folder DIR]

`merge` does what PEFT does; `components.merge` is the whole command, which also hashes its inputs and its result and
forces it to the disk. Memory is the largest sum over the process tree of anonymous memory: what a pod's limit has to
hold, without the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Cost, measure, take_turns

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
    from components.common.stage import Job, Plan
    from components.common.store import DirectoryStore
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
        return [sys.executable, __file__, "--child", contestant, "--size", size, "--folder", str(folder), str(out)]
    config = folder / "merge.yaml"
    config.write_text("merge: {}\n", encoding="utf-8")
    inputs = [f"--input={name}={folder / name}" for name in ("base", "adapter")]
    return [sys.executable, "-m", "components.merge", f"--config={config}", *inputs, f"--output={out}"]


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


def table(costs: dict[str, list[Cost]]) -> str:
    medians = {
        name: [statistics.median(getattr(cost, field) for cost in runs) for field in Cost.__dataclass_fields__]
        for name, runs in costs.items()
    }
    lines = [f"{'':18}{'wall s':>10}{'CPU s':>10}{'memory MB':>12}{'wall':>8}{'CPU':>8}{'memory':>8}"]
    for name, values in medians.items():
        ratios = [peft / value for peft, value in zip(medians["peft"], values, strict=True)]
        lines.append(
            f"{name:18}{values[0]:10.2f}{values[1]:10.2f}{values[2]:12.0f}" + "".join(f"{r:7.1f}x" for r in ratios)
        )
    return "\n".join(lines)


def benchmark(size: str, runs: int, folder: Path) -> None:
    if not (folder / "adapter").is_dir():
        subprocess.run(
            [sys.executable, __file__, "--child", "build", "--size", size, "--folder", str(folder)], check=True
        )
    names = ["peft", "merge", "components.merge"]

    def run(name: str, _: int) -> Cost:
        out = folder / "out" / name
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(exist_ok=True)
        return measure(command(name, folder, out, size))

    costs = take_turns(names, runs, run)
    print(f"\n{size}, {runs} runs, medians; ratios are PEFT's figure divided by the row's\n{table(costs)}")
    total, differ, largest = unequal(folder / "out" / "peft", folder / "out" / "merge")
    print(f"unequal to PEFT: {differ} of {total} elements, largest difference {largest:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", nargs="+", default=["245M"], choices=SIZES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep models here (about three times their size is needed)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("out", nargs="?", type=Path, help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    if arguments.child == "build":
        build(arguments.folder, arguments.size[0])
    elif arguments.child:
        CONTESTANTS[arguments.child](arguments.folder, arguments.out, arguments.size[0])
    else:
        for size in arguments.size:
            with tempfile.TemporaryDirectory() as temporary:
                folder = (arguments.folder or Path(temporary)) / size
                folder.mkdir(parents=True, exist_ok=True)
                benchmark(size, arguments.runs, folder)


if __name__ == "__main__":
    main()
