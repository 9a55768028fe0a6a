"""A stage that tries what its pod may do, and says what came of it: `facts {…}`, then its result.

python -m tests.support.key_probe --output URI --read PATH --other PATH
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from components.common.artifacts import commit
from components.common.errors import RlhfError
from components.common.guard import guarded
from components.common.inputs import split_uri
from components.common.logs import say
from components.common.manifest import Manifest, list_files
from components.common.store import open_store

TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DONE = "done"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--read", required=True, help="folder of an artifact that is an input")
    parser.add_argument("--other", required=True, help="folder of an artifact that is none")
    parser.add_argument("--nproc", default="1")
    parser.add_argument("--nnodes", default="1")
    arguments = parser.parse_args()
    root, own, _ = split_uri(arguments.output)
    _, stage, key = own.split("/")
    store = open_store(root)
    work, other_work = (f"work/{stage}/{k}/{os.environ['RLHF_RUN_ID']}" for k in (key, "other"))
    tries: dict[str, Callable[[], object]] = {
        "reads its input": lambda: store.read(f"{arguments.read}/manifest.json"),
        "lists its input": lambda: store.files(arguments.read),
        "writes its artifact folder": lambda: store.write(f"{own}/probe", b"1"),
        "deletes in its artifact folder": lambda: store.remove(f"{own}/probe"),
        "writes its work folder": lambda: store.write(f"{work}/probe", b"1"),
        "reads its work folder": lambda: store.read(f"{work}/probe"),
        "reads another's folder": lambda: store.read(f"{arguments.other}/manifest.json"),
        "lists another's folder": lambda: store.files(arguments.other),
        "writes its input's folder": lambda: store.write(f"{arguments.read}/probe", b"1"),
        "writes another's folder": lambda: store.write(f"{arguments.other}/probe", b"1"),
        "writes another's work folder": lambda: store.write(f"{other_work}/probe", b"1"),
        "lists the root": lambda: store.files(""),
    }
    facts = {name: _outcome(attempt) for name, attempt in tries.items()}
    facts["has a Kubernetes token"] = str(TOKEN.exists())
    facts["has the store's own keys"] = str("AWS_ACCESS_KEY_ID" in os.environ)
    say(stage, f"facts {json.dumps(facts)}")
    scratch = store.scratch()
    (scratch / "result.txt").write_text("tried\n")
    commit(store, own, scratch, Manifest(kind="adapter", stage=stage, key=key, files=list_files(scratch)))
    return 0


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except RlhfError as error:
        return error.what
    return DONE


if __name__ == "__main__":
    sys.exit(guarded(main))
