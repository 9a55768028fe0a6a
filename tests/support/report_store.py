"""A run in a directory store, as steps leave theirs, for the report's tests."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.common.directory_store import DirectoryStore
from components.common.manifest import FileEntry, Kind, Manifest, Parent
from components.launcher.record import Run, StepRecord

NOW = 1_800_000_000.0
SETTINGS: dict[str, Any] = {
    "seed": 7,
    "model": {
        "source": "",
        "scratch": {"train": {"learning_rate": 2e-3, "lr_scheduler_type": "cosine", "train_batch_size": 16}},
    },
    **{
        stage: {
            "enabled": True,
            "lora": {"r": 16, "lora_alpha": 32.0, "target_modules": "all-linear"},
            "learning_rate": rate,
            "lr_scheduler_type": "cosine",
            "max_steps": 400,
            "train_batch_size": 32,
        }
        for stage, rate in (("pretrain", 4e-4), ("sft", 2e-4), ("reward", 1e-4), ("dpo", 5e-5))
    },
    "rl": {
        "enabled": True,
        "lora": {"r": 16, "target_modules": "all-linear"},
        "learning_rate": 5e-5,
        "critic_learning_rate": 1e-4,
        "lr_scheduler_type": "linear",
        "max_steps": 120,
        "rollout_batch_size": 64,
        "solve_rate": {"low": 0.3, "high": 0.8, "group_by": "kind"},
    },
    "evaluate": {"enabled": True},
}


@dataclass
class Made:
    """A synthetic run in a directory store, written as the stages write theirs."""

    root: Path
    settings: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(SETTINGS)))
    run_id: str = "20261124-104821-2243"
    clock: float = NOW - 4000.0

    def __post_init__(self) -> None:
        self.store = DirectoryStore(self.root)
        self.run = Run(self.store, self.run_id)
        self.uris: dict[str, str] = {}
        self.digests: dict[str, str] = {}

    @property
    def config_uri(self) -> str:
        return self.run.config_uri

    def configure(self) -> None:
        self.store.write(
            f"runs/{self.run_id}/config.yaml",
            yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True).encode(),
        )

    def artifact(
        self,
        name: str,
        stage: str,
        kind: Kind,
        parents: Mapping[str, str] | None = None,
        metrics: Mapping[str, Any] | None = None,
        curves: Sequence[Mapping[str, float]] = (),
        samples: Sequence[Mapping[str, str]] = (),
        files: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Writes an artifact and remembers it as `name`; parents are names."""
        key = f"{random.Random(name).getrandbits(64):016x}"
        prefix = f"artifacts/{stage}/{key}"
        texts = dict(files or {})
        if curves:
            texts["metrics.jsonl"] = "".join(json.dumps(line) + "\n" for line in curves)
        if samples:
            texts["samples.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in samples)
        for path, text in texts.items():
            self.store.write(f"{prefix}/{path}", text.encode())
        entries = [FileEntry(path=path, size=len(text.encode()), sha256="0" * 64) for path, text in texts.items()]
        manifest = Manifest(
            kind=kind,
            stage=stage,
            key=key,
            files=(*entries, FileEntry(path="model.safetensors", size=5_400_000, sha256="1" * 64)),
            parents={
                role: Parent(uri=self.uris[of].removeprefix(f"{self.store.root}/"), digest=self.digests[of])
                for role, of in (parents or {}).items()
            },
            config=dict(config or {}),
            metrics=dict(metrics or {}),
            versions={"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "peft": "0.21.2"},
        )
        self.store.write(f"{prefix}/manifest.json", manifest.canonical())
        self.uris[name], self.digests[name] = f"{self.store.root}/{prefix}", manifest.digest
        return self.uris[name]

    def record(self, step: str, uri: str = "", state: str = "done", seconds: float = 1.0, **fields: Any) -> None:
        stage = "merge" if step.startswith("merge-") else step
        made_in = fields.pop("made_in", seconds)
        self.run.write(StepRecord(step, stage, state, self.clock, seconds, uri, made_in, **fields))  # type: ignore[arg-type]
        self.clock += seconds
