"""A stage that learns nothing: it says its steps, remembers them, beats, and does whatever a fault test wants of it.

python -m tests.support.little_stage --output URI --steps 20 --pause 0.2 [--fail-at 5 --code 75] [--hang-at 5]
    [--stamp] [--megabytes 64 [--part-pause 2]]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from components.common.artifacts import commit
from components.common.errors import ERROR_OF_CODE
from components.common.guard import guarded
from components.common.inputs import split_uri
from components.common.logs import say
from components.common.manifest import Manifest, list_files
from components.common.s3_bucket import Bucket
from components.common.store import open_store


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.1)
    parser.add_argument("--fail-at", type=int, default=0)
    parser.add_argument("--code", type=int, default=75)
    parser.add_argument("--hang-at", type=int, default=0)
    parser.add_argument("--eat-at", type=int, default=0)
    parser.add_argument("--stamp", action="store_true", help="say with each step when that was")
    parser.add_argument("--megabytes", type=int, default=0, help="size of the result")
    parser.add_argument("--part-pause", type=float, default=0.0, help="seconds before each part of it is sent")
    parser.add_argument("--nproc", default="1")
    parser.add_argument("--nnodes", default="1")
    return _run(parser.parse_args())


def _run(arguments: argparse.Namespace) -> int:
    root, prefix, _ = split_uri(arguments.output)
    _, stage, key = prefix.split("/")
    store = open_store(root)
    work = f"work/{stage}/{key}/{os.environ['RLHF_RUN_ID']}"
    progress = f"{work}/progress.json"
    first = json.loads(store.read(progress))["step"] + 1 if store.exists(progress) else 1
    again = first > 1
    for step in range(first, arguments.steps + 1):
        say(stage, f"step {step}/{arguments.steps}" + (f" at {time.time():.3f}" if arguments.stamp else ""))
        print(f"noise of step {step}", file=sys.stderr, flush=True)
        store.write(progress, json.dumps({"step": step}).encode())
        store.write(f"{work}/heartbeat.json", json.dumps({"time": time.time(), "step": step}).encode())
        if step == arguments.fail_at and not again:
            raise ERROR_OF_CODE[arguments.code]("failed as it was told to", where="little", hint="tell it not to")
        if step == arguments.hang_at and not again:
            time.sleep(3600)
        if step == arguments.eat_at:
            eaten = [bytearray(os.urandom(1)) * 2**20 for _ in range(4096)]
            say(stage, f"ate {len(eaten)} MiB")
        time.sleep(arguments.pause)
    _send_slowly(arguments.part_pause)
    scratch = store.scratch()
    _write(scratch / "big.bin", arguments.megabytes)
    (scratch / "result.txt").write_text(f"{arguments.steps} steps\n")
    commit(store, prefix, scratch, Manifest(kind="adapter", stage=stage, key=key, files=list_files(scratch)))
    return 0


def _write(path: Path, megabytes: int) -> None:
    """Writes a file that is always the same."""
    rng = random.Random(0)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(rng.randbytes(2**20))


def _send_slowly(pause: float) -> None:
    """Lets every part of an upload wait before it is sent: over a slow line it takes as long."""
    send = Bucket.put_part

    def later(bucket: Bucket, *arguments: Any) -> str:
        bucket.stop.wait(pause)
        return send(bucket, *arguments)

    if pause:
        Bucket.put_part = later  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(guarded(main))
