"""Damaged files: whatever a file holds, it is read or refused in one line; never a traceback.

`RLHF_FUZZ_SECONDS` says how long each of the two tests goes on; `make fuzz` runs them for an hour.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from components.common.config import check_sections, load_yaml, validate
from components.common.errors import UserError
from components.data.normalise import normalise
from components.data.readers import read_rows
from components.prepare.config import RunConfig
from tests.support.commands import ROOT

SECONDS = float(os.environ.get("RLHF_FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("RLHF_FUZZ_SEED", "0"))
TASKS = ("pretrain", "sft", "reward", "rl")


def until_time_is_up() -> Iterator[random.Random]:
    """A random generator for each round; its number is in the message of a failure."""
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        yield random.Random(f"{SEED}-{number}")
        number += 1
    assert number > 20


def damage(data: bytes, rng: random.Random) -> bytes:
    """Changes, cuts out, doubles or inserts bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(changed) + 1)
        length = rng.randrange(1, 40)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at:at] = rng.choice(
                [b"\x00", b"\xff\xfe", b"{", b"]", b'"', b"null", b"\n", b"1e999", "é".encode()]
            )
    return bytes(changed)


def whole_files(folder: Path) -> dict[str, bytes]:
    """A good file of each format and of each form of row."""
    rows = [
        {"instruction": "add", "input": "1 2", "output": "3"},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1.5},
        {"question": "a", "response_chosen": "b", "response_rejected": "c"},
        {"text": "a document", "answer": 4},
    ]
    table = folder / "whole.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": f"p{i}", "response": str(i)} for i in range(50)]), table)
    lines = "".join(json.dumps(row) + "\n" for row in rows * 5).encode()
    return {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "a.json": json.dumps(rows, indent=1).encode(),
        "a.csv": ("prompt,response\n" + '"x, ""y""\nz",w\n' * 20).encode(),
        "a.txt": b"one line\n\nanother document\n" * 20,
        "a.parquet": table.read_bytes(),
    }


def read_all(path: Path, tasks: tuple[str, ...]) -> None:
    """Reads a file as each stage would."""
    for row in read_rows(str(path)):
        for task in tasks:
            normalise(task, row)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    return whole_files(tmp_path_factory.mktemp("whole"))


def refused_or_done(action: Callable[[], None]) -> None:
    """Calls something; of all errors only ours is right, and it is one line."""
    refusal = ""
    try:
        action()
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal


def test_damaged_data_files(files, tmp_path):
    for rng in until_time_is_up():
        name = rng.choice(sorted(files))
        path = tmp_path / name
        path.write_bytes(damage(files[name], rng))
        refused_or_done(lambda path=path: read_all(path, TASKS))


def check_config(text: str) -> None:
    """Checks a run's configuration as the steps do."""
    config = load_yaml(text, "run.yaml")
    check_sections(config, "run.yaml")
    validate(RunConfig, config, "", "run.yaml")


def test_damaged_configurations(tmp_path):
    presets = [path.read_bytes() for path in sorted((ROOT / "pipelines" / "presets").glob("*.yaml"))]
    for preset in presets:
        check_config(preset.decode())
    for rng in until_time_is_up():
        text = damage(rng.choice(presets), rng).decode("utf-8", "replace")
        lines = text.splitlines()
        values = ["null", "-1", "[]", "{}", "1e400", "'x'", ".nan", "true", "2026-13-45", "*a", "&a 1", "!!binary aGk="]
        values += ["!!int x", "!!float x", "!!timestamp x", "!!set {a}", "0x", "{[1]: 2}", "1_0", "${HOME}"]
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(lines))
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {rng.choice(values)}"
        refused_or_done(lambda lines=lines: check_config("\n".join(lines)))
