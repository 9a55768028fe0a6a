"""Tokenising documents against `datasets.map(batched=True)` with the same tokenizer.

    python -m tests.benchmarks.bench_tokenise [--megabytes 24] [--runs 3] [--output DIR]

The documents are the Python sources of installed packages, the tokenizer is a byte-level BPE trained on some of them.
Measured is the time from documents in memory to tokens on the disk, in a process of its own; importing and loading are
left out. `datasets.map` uses all cores for part of its work even in one process; ours uses one core throughout.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.goals import Goal
from tests.benchmarks.harness import Figures, Table, measure, take_turns, write_results

MODULE = "tests.benchmarks.bench_tokenise"
PACKAGES = ("transformers", "torch", "sympy")
VOCABULARY = 8192


def sources(megabytes: float) -> Iterator[str]:
    """Python files of installed packages, until there are enough."""
    left = megabytes * 1e6
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            # With a special token in it, the peer would encode a text otherwise.
            if len(text) > 200 and "<|" not in text:
                yield text
                left -= len(text.encode())
            if left < 0:
                return


def build(folder: Path, megabytes: float) -> float:
    """Writes documents and tokenizer; returns the documents' size in MB."""
    from components.prepare.scratch import make_tokenizer

    texts = list(sources(megabytes))
    with (folder / "documents.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    make_tokenizer(texts[::8], VOCABULARY).save_pretrained(folder / "tokenizer")
    return sum(len(text.encode()) for text in texts) / 1e6


def tokenise_with_map(folder: Path, processes: int) -> int:
    from datasets import Dataset, load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    cache = tempfile.mkdtemp(dir=folder)
    documents = load_dataset("json", data_files=str(folder / "documents.jsonl"), split="train", cache_dir=cache)
    assert isinstance(documents, Dataset)
    with timed(folder):
        tokenised = documents.map(
            lambda batch: tokenizer(batch["text"]),
            batched=True,
            num_proc=processes if processes > 1 else None,
            remove_columns=["text"],
        )
    count = sum(len(ids) for batch in tokenised.iter(1000) for ids in batch["input_ids"])
    shutil.rmtree(cache)
    return count


def tokenise_with_ours(folder: Path, _: int) -> int:
    from components.common.tokenizer import load_tokenizer
    from components.data.collect import CHUNK
    from components.data.records import Document
    from components.data.table import build_table, read_jsonl
    from components.data.tokenise import tokenise_documents

    tokenizer = load_tokenizer(folder / "tokenizer")
    documents = [Document(row["text"]) for row in read_jsonl(folder / "documents.jsonl")]
    with timed(folder):
        chunks = (documents[start : start + CHUNK] for start in range(0, len(documents), CHUNK))
        table = build_table([row for chunk in chunks for row in tokenise_documents(tokenizer, chunk)], VOCABULARY)
        table.save(folder / "table")
    return len(table.tokens) - len(documents)  # each is ended by EOS


CONTESTANTS: dict[str, Callable[[Path, int], int]] = {"map": tokenise_with_map, "ours": tokenise_with_ours}


class timed:  # noqa: N801, it is used as a function
    """Writes what its body took, child processes included, into a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "timed.json"

    def __enter__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _cpu()

    def __exit__(self, *_: object) -> None:
        figures = {"wall_s": time.monotonic() - self._wall, "cpu_s": _cpu() - self._cpu}
        self._file.write_text(json.dumps(figures))


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run(contestant: str, processes: int, folder: Path, megabytes: float, _: int) -> Figures:
    """Tokenises once, in a new process."""
    command = [sys.executable, "-m", MODULE, "--child", contestant, "--processes", str(processes), str(folder)]
    measure(command)
    figures: Figures = json.loads((folder / "timed.json").read_text())
    return {**figures, "MB a s": megabytes / figures["wall_s"], "MB a CPU s": megabytes / figures["cpu_s"]}


def main() -> None:
    """Runs the comparison, or one of its children."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder for table, figures and plot")
    parser.add_argument("--child", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        tokens = CONTESTANTS[arguments.child](arguments.folder, arguments.processes)
        (arguments.folder / f"{arguments.child}.count").write_text(str(tokens))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = build(folder, arguments.megabytes)
        names = {"datasets.map": ("map", 1), "datasets.map, num_proc=2": ("map", 2), "ours": ("ours", 1)}
        contestants = {name: functools.partial(run, *which, folder, size) for name, which in names.items()}
        results = take_turns(contestants, arguments.runs)
        assert (folder / "map.count").read_text() == (folder / "ours.count").read_text()
    title, more = f"Tokenising {size:.0f} MB", ("MB a s", "MB a CPU s")
    two = {name: results[name] for name in ("datasets.map, num_proc=2", "ours")}
    one = Table(title, results, plotted="MB a CPU s", higher_is_better=more)
    both = Table(f"{title}, against two processes", two, plotted="MB a s", higher_is_better=more)
    goals = (
        [Goal("times as fast as datasets.map", one.ratio("ours", "MB a s"), at_least=3)],
        [Goal("times as fast as two processes of it", both.ratio("ours", "MB a s"), at_least=1.5)],
    )
    tables = [replace(table, goals=found) for table, found in zip((one, both), goals, strict=True)]
    write_results(arguments.output, "tokenise", tables)


if __name__ == "__main__":
    main()
