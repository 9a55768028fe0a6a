"""The store: whether it answers, takes what is written, and gives out keys for a part of itself."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from components.common.errors import RlhfError
from components.common.store import is_s3, local_path, open_store
from pipelines.doctor.finding import Finding

PROBE = b"rlhf doctor"
KEY, RUN = 16, 36  # characters of a key, and of a run's id on Kubeflow Pipelines
# What the stage with the most inputs reads, so that a policy which is too large for the store is found here.
WIDEST = [
    f"runs/{'0' * RUN}",
    *(f"artifacts/{stage}/{number:0{KEY}}" for number, stage in enumerate(("merge", "merge", "merge", "data-rl"))),
]


def check_store(root: str) -> Iterator[Finding]:
    """Writes a few bytes, reads them back and takes them away."""
    if not is_s3(root) and not local_path(root).exists():
        yield from _future(local_path(root).absolute())
        return
    path = f"runs/.doctor-{secrets.token_hex(4)}"
    try:
        store = open_store(root)
        store.write(path, PROBE)
        same = store.read(path) == PROBE
        store.remove(path)
    except (RlhfError, OSError) as error:
        told = isinstance(error, RlhfError) and error.hint
        yield Finding("store", "failed", str(error), "" if told else "check RLHF_STORE and the AWS variables")
        return
    if same:
        yield Finding("store", "ok", f"{store.root} can be written and read")
    else:
        yield Finding("store", "failed", f"{root} gives back other bytes than were written", "use another store")


def _future(folder: Path) -> Iterator[Finding]:
    """A folder that the first run will make; doctor makes none."""
    there = next(parent for parent in folder.parents if parent.exists())
    if os.access(there, os.W_OK):
        yield Finding("store", "ok", f"{folder} will be made by the first run")
    else:
        yield Finding(
            "store", "failed", f"{folder} cannot be made: {there} is not ours to write", "give --store FOLDER"
        )


def check_keys(root: str) -> Iterator[Finding]:
    """Whether stages can be given keys that open only their own folders."""
    if not is_s3(root):
        return
    from components.common.sts import SHORTEST, session_credentials

    # An error is `examine`'s to tell: the launcher starts no stage then, since other keys open everything.
    keys = session_credentials(
        root, WIDEST, [f"{kind}/evaluate/{'0' * KEY}" for kind in ("artifacts", "work")], SHORTEST
    )
    if keys is None:
        remedy = "stage pods get the configured keys, which open the whole store: keep it for runs alone"
        yield Finding("keys", "warning", "the store gives no temporary keys (STS AssumeRole)", remedy)
    else:
        yield Finding("keys", "ok", "each stage gets temporary keys to its own folders")
