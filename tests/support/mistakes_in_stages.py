"""Mistakes in what a stage is given, and in how it trains."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.artifacts import commit
from components.common.directory_store import DirectoryStore
from components.common.guard import guarded
from components.common.manifest import Manifest, list_files
from components.common.trainer_arguments import batch_shape
from components.common.training import TrainingConfig
from components.rl.rewards import call_function
from tests.support.mistake_kit import Kit, Mistake


def _damaged(kit: Kit, spoil: Callable[[Path], None]) -> int:
    """Gives rl a spoilt copy of its dataset."""
    copy = kit.copy(kit.artifact("data-rl"))
    spoil(copy)
    return kit.rl(dataset=copy)


def _alter(folder: Path) -> None:
    content = bytearray((folder / "train" / "tokens.npy").read_bytes())
    content[-1] ^= 1
    (folder / "train" / "tokens.npy").write_bytes(content)


def _other_vocabulary(kit: Kit) -> int:
    """Gives rl a dataset that says it was made with another vocabulary than the model's artifact."""
    store = DirectoryStore(kit.folder / "given")
    folder = kit.copy(kit.model)
    manifest = Manifest(
        kind="model", stage="merge", key="0" * 16, files=list_files(folder), tokenizer={"vocabulary": "0" * 16}
    )
    commit(store, f"artifacts/merge/{'0' * 16}", folder, manifest)
    return kit.rl(model=kit.folder / "given" / "artifacts" / "merge" / ("0" * 16))


def _uneven(kit: Kit) -> int:
    os.environ["WORLD_SIZE"] = "4"
    try:
        return guarded(lambda: batch_shape(TrainingConfig(train_batch_size=6), 1)[0])
    finally:
        del os.environ["WORLD_SIZE"]


def _judge(function: Callable[..., Any]) -> int:
    return guarded(lambda: len(call_function(function, "polite", ["Hello?"], ["Yes."], [{}])))


def _raising(**_: Any) -> list[float]:
    raise KeyError("grade")


def _terminated() -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return 0


INPUTS = (
    Mistake("an input is not given", 2, lambda kit: kit.stage("sft", model=kit.model)),
    Mistake("an input's name is misspelt", 2, lambda kit: kit.stage("sft", modle=kit.model)),
    Mistake("an input that is nothing", 3, lambda kit: kit.rl(model=kit.folder / "nowhere")),
    Mistake("an adapter where a model is wanted", 3, lambda kit: kit.rl(model=kit.shared / "reward")),
    Mistake(
        "an artifact that was never finished",
        3,
        lambda kit: _damaged(kit, lambda folder: (folder / "manifest.json").unlink()),
    ),
    Mistake("an altered file", 3, lambda kit: _damaged(kit, _alter)),
    Mistake(
        "a missing file of an artifact",
        3,
        lambda kit: _damaged(kit, lambda folder: (folder / "train" / "tokens.npy").unlink()),
    ),
    Mistake("a file added to an artifact", 3, lambda kit: _damaged(kit, lambda folder: (folder / "notes.txt").touch())),
    Mistake(
        "an adapter of another base", 3, lambda kit: kit.stage("merge", base=kit.model, adapter=kit.artifact("sft"))
    ),
    Mistake(
        "an adapter without its weights",
        3,
        lambda kit: kit.stage("merge", base=kit.model, adapter=kit.shared / "reward"),
    ),
    Mistake("inputs of different vocabularies", 3, _other_vocabulary),
    Mistake("a dataset of another stage", 3, lambda kit: kit.rl(dataset=kit.artifact("data-sft"))),
)
TRAINING = (
    Mistake("a layer that LoRA cannot find", 2, lambda kit: kit.rl(config="rl: {lora: {target_modules: [q_prj]}}")),
    Mistake("a batch that the processes cannot share", 2, _uneven),
    Mistake("a reward function that fails", 2, lambda kit: _judge(_raising)),
    Mistake("a reward function that returns too little", 2, lambda kit: _judge(lambda **_: [])),
    Mistake("a process that is told to stop", 75, lambda kit: guarded(_terminated)),
)
