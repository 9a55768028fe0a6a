"""Stores with the runs that the report's tests look at: finished, failed, running, mixed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.common.artifacts import FileEntry, Kind, Manifest, Parent
from components.common.flows import flow_steps
from components.common.store import DirectoryStore
from components.launcher.record import Run, StepRecord

NOW = 1_800_000_000.0
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)> \"quoted\" & </style></pre>"
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
QUESTIONS = (
    ("Which side does S52.521A name?", "right", "left"),
    ("Which encounter does M84.452D name?", "subsequent encounter", "initial encounter"),
    ("Which chapter is J45.40 in?", "X. Diseases of the respiratory system", "IX. Diseases of the circulatory system"),
    ("What is the parent of E11.321?", "E11.32", "E11.3"),
    ("Which side does H40.1122 name?", "left", "right"),
    ("Write S72.041A in full.", "Displaced fracture of base of neck of right femur, initial encounter", "fracture"),
    ("Which fracture does the D in S52.521D mean?", "routine healing", "delayed healing"),
    ("Which side does M17.11 name?", "right", "left"),
    ("Which chapter is O80 in?", "XV. Pregnancy, childbirth and the puerperium", "XIV."),
)


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


def curve(
    steps: int, every: int, values: Mapping[str, Callable[[float, random.Random], float]]
) -> list[dict[str, float]]:
    """Points over a training from 0 to 1."""
    rng = random.Random(steps)
    return [
        {"step": step, **{name: value(step / steps, rng) for name, value in values.items()}}
        for step in range(every, steps + 1, every)
    ]


def falling(high: float, low: float, noise: float = 0.05) -> Callable[[float, random.Random], float]:
    return lambda t, rng: low + (high - low) * math.exp(-5 * t) + rng.gauss(0, noise)


def rising(low: float, high: float, noise: float = 0.02) -> Callable[[float, random.Random], float]:
    return lambda t, rng: high - (high - low) * math.exp(-4 * t) + rng.gauss(0, noise)


def cosine(peak: float) -> Callable[[float, random.Random], float]:
    return lambda t, _: peak * min(1, t / 0.03) * 0.5 * (1 + math.cos(math.pi * t))


def answers(right_before: int, right_after: int) -> list[dict[str, str]]:
    return [
        {
            "prompt": question,
            "reference": right,
            "before": right if index < right_before else wrong,
            "answer": right if index < right_after else wrong,
        }
        for index, (question, right, wrong) in enumerate(QUESTIONS)
    ]


def write_base(made: Made) -> None:
    made.artifact("source", "source", "source", metrics={"files": 5, "bytes": 9_000_000})
    made.artifact(
        "base",
        "base",
        "model",
        {"sources": "source"},
        {
            "before": {"loss": 6.93, "perplexity": 1021.0, "tokens": 9210},
            "after": {"loss": 1.212, "perplexity": 3.361, "tokens": 9210},
            "trainable_parameters": 1_312_000,
        },
        curve(
            800,
            10,
            {
                "loss": falling(6.2, 1.25),
                "token_accuracy": rising(0.1, 0.71),
                "lr": cosine(2e-3),
                "grad_norm": falling(2, 0.4),
            },
        ),
        files={
            "config.json": json.dumps(
                {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 128, "vocab_size": 1024}
            )
        },
    )
    made.settings["model"]["source"] = made.uris["base"]


def write_data(made: Made) -> None:
    counts = {
        "pretrain": {
            "rows": 14200,
            "train": 12950,
            "heldout": 650,
            "duplicates": 440,
            "train_rows": 13102,
            "heldout_rows": 500,
            "train_packed_rows": 1720,
            "train_padding_share": 0.0213,
            "dropped": [{"reason": "the text is empty", "count": 160, "first": "icd/base.jsonl line 88"}],
        },
        "sft": {
            "rows": 20000,
            "train": 17110,
            "heldout": 912,
            "duplicates": 1978,
            "train_rows": 17110,
            "heldout_rows": 912,
            "train_packed_rows": 2310,
            "train_padding_share": 0.0371,
            "train_label_tokens": 120_334,
            "dropped": [],
        },
        "reward": {
            "rows": 9000,
            "train": 8500,
            "heldout": 453,
            "duplicates": 12,
            "train_rows": 7743,
            "heldout_rows": 377,
            "train_label_tokens": 48_200,
            "dropped": [
                {
                    "reason": "the answers differ in their number of tokens",
                    "count": 833,
                    "first": "row that begins 'Which chapter is J45.40 in?'",
                },
                {"reason": "chosen and rejected are the same", "count": 35, "first": "reward.jsonl line 1204"},
            ],
        },
        "rl": {
            "rows": 6000,
            "train": 5460,
            "heldout": 300,
            "duplicates": 240,
            "train_rows": 5460,
            "heldout_rows": 256,
            "dropped": [],
        },
    }
    for task, fields in counts.items():
        rest = {
            "train_tokens": 1_204_331,
            "heldout_tokens": 61_023,
            "train_longest": 231,
            "heldout_longest": 190,
            "truncated": 3,
        }
        made.artifact(f"data-{task}", f"data-{task}", "dataset", {"model": "base"}, {**fields, **rest})


def write_stage(made: Made, stage: str, model: str, **changes: Any) -> None:
    """Writes a training stage's artifact under its name."""
    parents = {"model": model, "dataset": "data-reward" if stage == "dpo" else f"data-{stage}"}
    metrics: dict[str, Any] = {"trainable_parameters": 262_144}
    curves: Sequence[Mapping[str, float]]
    samples: Sequence[Mapping[str, str]]
    if stage in ("pretrain", "sft"):
        curves = curve(
            400,
            5,
            {
                "loss": falling(3.2, 1.4, 0.08),
                "token_accuracy": rising(0.3, 0.68),
                "lr": cosine(4e-4),
                "grad_norm": falling(1.5, 0.5, 0.1),
            },
        )
        metrics["before"] = {"loss": 3.246, "perplexity": 25.68, "tokens": 13940}
        metrics["after"] = {"loss": 1.5897, "perplexity": 4.902, "tokens": 13940}
        samples = [
            {
                "prompt": "S52.52 Torus fracture of lower",
                "reference": " end of radius<|im_end|>",
                "before": " the the the the of of",
                "answer": " end of ulna<|im_end|>",
            }
        ] * 3
    if stage == "sft":
        metrics["before"] |= {"exact_match": 0.0195, "prompts": 256}
        metrics["after"] |= {"exact_match": 0.7109, "prompts": 256}
        samples = answers(1, 7)
    if stage == "reward":
        curves = curve(
            400,
            4,
            {
                "loss": falling(0.69, 0.12, 0.03),
                "accuracy": rising(0.5, 0.96),
                "margin": rising(0, 3.2, 0.2),
                "lr": cosine(1e-4),
                "grad_norm": falling(1.5, 0.5, 0.1),
            },
        )
        metrics["before"] = {
            "accuracy": 0.5,
            "accuracy_equal_length": 0.5,
            "loss": 0.6931,
            "margin": 0.0,
            "pairs": 377,
            "pairs_equal_length": 377,
        }
        metrics["after"] = {
            "accuracy": 0.9602,
            "accuracy_equal_length": 0.9602,
            "accuracy_head_only": 0.6127,
            "loss": 0.1204,
            "margin": 3.1875,
            "pairs": 377,
            "pairs_equal_length": 377,
        }
        samples = [
            {
                "prompt": q,
                "chosen": a,
                "rejected": b,
                "score_chosen": f"{1.8 - i / 2:.3f}",
                "score_rejected": f"{i / 2 - 1.9:.3f}",
            }
            for i, (q, a, b) in enumerate(QUESTIONS)
        ]
    if stage == "dpo":
        curves = curve(
            400,
            4,
            {
                "loss": falling(0.69, 0.12, 0.03),
                "accuracy": rising(0.5, 0.96),
                "margin": rising(0, 3.2, 0.2),
                "log_prob_chosen": falling(-3.1, -4.9, 0.2),
                "log_prob_rejected": falling(-3.4, -38.0, 1.0),
                "lr": cosine(5e-5),
            },
        )
        metrics["before"] = {
            "accuracy": 0.5,
            "ranking_accuracy": 0.5411,
            "loss": 0.6931,
            "margin": 0.0,
            "log_prob_chosen": -3.12,
            "log_prob_rejected": -3.41,
            "exact_match": 0.4219,
            "pairs": 377,
            "prompts": 128,
        }
        metrics["after"] = {
            "accuracy": 0.9602,
            "ranking_accuracy": 0.9549,
            "loss": 0.1204,
            "margin": 3.1875,
            "log_prob_chosen": -4.87,
            "log_prob_rejected": -37.04,
            "exact_match": 0.7031,
            "pairs": 377,
            "prompts": 128,
        }
        metrics["exact_match_gain"] = {"mean": 0.2812, "low": 0.1953, "high": 0.3672}
        samples = [
            {**row, "chosen": right, "rejected": wrong, "score_chosen": f"{i / 9:.3f}", "score_rejected": "0.400"}
            for i, (row, (_, right, wrong)) in enumerate(zip(answers(3, 7), QUESTIONS, strict=True))
        ]
    if stage == "rl":
        parents |= {"reward": "reward", "reward_model": "merge-reward"}
        curves = curve(
            120,
            1,
            {
                "reward": rising(0.4, 1.9, 0.15),
                "exact_answer": rising(0.55, 0.81, 0.05),
                "kl": lambda t, r: 2.6 * t + abs(r.gauss(0, 0.1)) * t,
                "kl_k3": lambda t, r: 2.7 * t,
                "entropy": falling(0.9, 0.35, 0.04),
                "value_loss": falling(0.6, 0.08, 0.02),
                "policy_loss": lambda t, r: r.gauss(-0.01, 0.01),
                "clipped": rising(0.01, 0.12, 0.02),
                "completion_tokens": falling(14, 9, 0.6),
                "ended": rising(0.93, 1.0, 0.004),
                "explained_variance": rising(-0.2, 0.8, 0.05),
                "approx_kl": falling(0.04, 0.01, 0.004),
                "beta": lambda t, r: 0.05,
                "lr": lambda t, r: 5e-5 * (1 - t),
                "grad_norm_policy": falling(1.2, 0.5, 0.1),
                "grad_norm_critic": falling(3, 0.7, 0.2),
            },
        )
        metrics["before"] = {"reward": 0.412, "exact_answer": 0.5547, "kl": 0.0, "ended": 0.9375, "prompts": 256}
        metrics["after"] = {"reward": 1.834, "exact_answer": 0.8086, "kl": 2.71, "ended": 1.0, "prompts": 256}
        metrics |= {
            "reward_gain": {"mean": 1.422, "low": 1.231, "high": 1.607},
            "exact_answer_gain": {"mean": 0.254, "low": 0.187, "high": 0.316},
        }
        metrics["solve_rate"] = {"chapter": 0.91, "encounter": 0.64, "full text": 0.12, "side": 0.55}
        samples = answers(5, 8)
    changed = {**metrics, **{name: {**metrics.get(name, {}), **value} for name, value in changes.items()}}
    made.artifact(stage, stage, "adapter", parents, changed, curves, samples)


def write_merge(made: Made, stage: str, base: str) -> None:
    counts = {
        "tensors_merged": 28,
        "tensors_copied": 10,
        "tensors_replaced": int(stage == "reward"),
        "bytes": 5_249_000,
        "parameters": 1_312_000,
    }
    kind: Kind = "reward_model" if stage == "reward" else "model"
    made.artifact(f"merge-{stage}", "merge", kind, {"base": base, "adapter": stage}, counts)


def write_evaluation(made: Made, model: str) -> None:
    metrics: dict[str, Any] = {
        "prompts": 256,
        "exact_answer": {"before": 0.0117, "after": 0.8125, "gain": {"mean": 0.8008, "low": 0.75, "high": 0.8477}},
    }
    parents = {"model": model, "before": "base", "dataset": "data-rl"}
    if "merge-reward" in made.uris:
        parents["reward"] = "merge-reward"
        metrics["reward"] = {"before": -1.204, "after": 1.871, "gain": {"mean": 3.075, "low": 2.85, "high": 3.29}}
    made.artifact("evaluate", "evaluate", "evaluation", parents, metrics, samples=answers(0, 8))


SECONDS = {"prepare": 63.2, "data": 11.4, "pretrain": 41.0, "sft": 58.8, "reward": 37.9, "rl": 71.3, "evaluate": 9.6}
KILLED = {
    "code": 75,
    "reason": "was killed, most likely for lack of memory",
    "where": "components.rl",
    "hint": "use smaller batches",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "finished": {},
    "failed": {"failed": ("rl", KILLED)},
    "failed at once": {"failed": ("prepare", KILLED)},
    "running": {"running": "reward"},
    "stopped": {"until": "sft"},
    "reused and off": {"reused": ("prepare", "data", "sft", "merge-sft"), "off": ("pretrain", "evaluate")},
    "all off": {"off": ("pretrain", "sft", "reward", "rl", "evaluate")},
    "dpo": {"pipeline": "dpo"},
    "dpo begun": {"pipeline": "dpo", "until": "prepare"},
}


def make_run(
    root: Path,
    *,
    until: str = "report",
    failed: tuple[str, dict[str, Any]] | None = None,
    running: str = "",
    off: Sequence[str] = (),
    reused: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    pipeline: str = "rlhf",
) -> Made:
    """Writes a run up to and including the step `until`; `failed` or `running` end it earlier."""
    made = Made(root)
    made.settings |= settings or {}
    write_base(made)
    if pipeline != "rlhf":
        made.store.write(f"runs/{made.run_id}/request.json", json.dumps({"pipeline": pipeline}).encode())
    model = "base"
    for step in flow_steps(pipeline):
        stage = step.removeprefix("merge-")
        if failed and step == failed[0]:
            made.record(step, state="failed", seconds=4.2, error=failed[1])
            break
        if step == running:
            made.record(step, state="running", seconds=0.0)
            break
        if stage in off or (step == "merge-reward" and "reward" in off):
            made.settings.setdefault(stage, {})["enabled"] = False
            made.record(step, made.uris[model], state="off", seconds=0.1)
            continue
        if step == "data":
            write_data(made)
        elif step == "evaluate":
            write_evaluation(made, model)
        elif step.startswith("merge-"):
            write_merge(made, stage, model)
            model = step if stage != "reward" else model
        elif step not in ("prepare", "report"):
            write_stage(made, step, model, **(changes or {}).get(step, {}))
        names = [name for name in made.uris if name.startswith("data-")] if step == "data" else [step]
        uri = " ".join(made.uris["base" if name == "prepare" else name] for name in names if name != "report")
        if step == "report":
            made.record(step, state="running", seconds=0.0)
        elif step in reused:
            made.record(step, uri, state="reused", seconds=0.1, made_in=SECONDS.get(step, 0.9))
        else:
            made.record(step, uri, seconds=SECONDS.get(step, 0.9))
        if step == until:
            break
    made.configure()
    return made
