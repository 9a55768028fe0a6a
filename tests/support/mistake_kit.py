"""What the mistakes of users are made with."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.common.artifacts import commit
from components.common.directory_store import DirectoryStore
from components.common.entry import stage_main
from components.common.manifest import Manifest, Parent, list_files
from components.data.__main__ import main as data_main
from components.prepare.__main__ import main as prepare_main
from tests.support import toy
from tests.support.commands import ROOT
from tests.support.models import tiny_model

TOY = str(ROOT / "tests" / "support" / "toy.yaml")


@dataclass(frozen=True)
class Kit:
    """What mistakes are made with.

    Attributes:
        folder: A new folder, where the mistake is made and where its store would be.
        shared: Made once: `model`, `reward` (an adapter's folder), `sources`, and a store with datasets and an adapter.
    """

    folder: Path
    shared: Path

    @property
    def model(self) -> Path:
        return self.shared / "model"

    def artifact(self, stage: str) -> Path:
        """The one artifact of a stage in the shared store."""
        (found,) = (self.shared / "store" / "artifacts" / stage).iterdir()
        return found

    def write(self, name: str, content: str | bytes) -> str:
        """Writes a file and returns its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def full(self) -> Path:
        """A file on a disk that is full."""
        (self.folder / "full").symlink_to("/dev/full")
        return self.folder / "full"

    def copy(self, what: Path) -> Path:
        """A copy of a shared folder, to spoil; an artifact's copy lies in a store of its own."""
        inside = Path("given", *what.parts[-3:]) if "artifacts" in what.parts else Path("given", what.name)
        shutil.copytree(what, self.folder / inside)
        return self.folder / inside

    def prepare(self, *arguments: str) -> int:
        return prepare_main(["--preset", TOY, "--output", str(self.folder / "store"), "--run-id", "r", *arguments])

    def base(self, model: Path | str, *overrides: str) -> int:
        """Runs prepare on a base model, with data that are there."""
        given = ["--model", str(model), "--data", str(self.shared / "sources"), "--overrides", "\n".join(overrides)]
        return self.prepare(*given)

    def set(self, *overrides: str) -> int:
        """Runs prepare with overrides."""
        return self.prepare("--overrides", "\n".join(overrides))

    def data(self, content: str | bytes | None = None, name: str = "sft.jsonl", task: str = "sft", **part: Any) -> int:
        """Runs the data step on a file, or on the sources that `part` names."""
        if content is not None:
            part["sources"] = self.write(name, content)
        model = part.pop("model", self.model)
        config = self.write("run.yaml", yaml.safe_dump({"data": {task: part}}))
        return data_main(["--config", config, "--input", f"model={model}", "--output", str(self.folder / "store")])

    def stage(self, name: str, *arguments: str, config: str = "", **inputs: Path | str) -> int:
        """Runs a stage."""
        given = [part for role, uri in inputs.items() for part in ("--input", f"{role}={uri}")]
        common = ["--config", self.write("run.yaml", config), "--output", str(self.folder / "store")]
        spec = importlib.import_module(f"components.{name}.config").SPEC
        return stage_main(spec, functools.partial(_run_of, name), [*common, *given, *arguments])

    def rl(self, *arguments: str, config: str = "", **inputs: Path | str) -> int:
        """Runs the rl stage, with inputs that fit unless others are given."""
        fitting = {"model": self.model, "reward": self.shared / "reward", "dataset": self.artifact("data-rl")}
        return self.stage("rl", *arguments, config=config, **{**fitting, **inputs})

    def command(self, *arguments: str) -> int:
        """Runs `rlhf`."""
        from pipelines.cli import main

        try:
            main.main(["run", *arguments, "--store", str(self.folder / "store")], standalone_mode=False)
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def _run_of(stage: str) -> Any:
    return importlib.import_module(f"components.{stage}.stage").run


def make_shared(folder: Path, tokenizer: Any) -> None:
    """Makes what all mistakes share; nothing of it is trained."""
    tiny_model("llama", tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    toy.write_sources(folder / "sources", 0, {})
    tasks = {task: {"sources": str(folder / "sources" / task)} for task in ("sft", "rl")}
    (folder / "run.yaml").write_text(yaml.safe_dump({"data": {**tasks, "heldout": 0.2}}))
    arguments = ["--config", str(folder / "run.yaml"), "--output", str(folder / "store")]
    assert data_main([*arguments, "--input", f"model={folder / 'model'}"]) == 0
    adapter = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    for place in (folder / "reward", folder / "adapter"):
        place.mkdir()
        (place / "adapter_config.json").write_text(json.dumps(adapter))
    manifest = Manifest(
        kind="adapter",
        stage="sft",
        key="0" * 16,
        files=list_files(folder / "adapter"),
        parents={"model": Parent(uri="artifacts/merge/another", digest=f"sha256:{'1' * 64}")},
    )
    commit(DirectoryStore(folder / "store"), f"artifacts/sft/{'0' * 16}", folder / "adapter", manifest)


@dataclass(frozen=True)
class Mistake:
    """A mistake, the exit code it ends with, and how it is made: a function that returns the code it got."""

    what: str
    code: int
    make: Callable[[Kit], int]
