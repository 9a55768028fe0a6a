from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.common.artifacts import FileEntry, Kind, Manifest, Parent
from components.common.store import DirectoryStore
from components.launcher.record import Run, StepRecord
from components.report import formats
from components.report.__main__ import main
from components.report.card import front_matter, model_card
from components.report.charts import is_noisy, line_chart, nice_ticks, smoothed, thin, tick_writer
from components.report.collect import FLOW, artifact_uris, collect, parse_curves
from components.report.compare import Comparison, Interval, final_comparisons, stage_comparisons, wilson
from components.report.data_view import dataset_views, solve_rates
from components.report.lineage import artifact_views, run_record
from components.report.metrics import describe
from components.report.page import render, total_seconds, yaml_lines
from components.report.samples import answer_rows, pair_rows, turns
from components.report.verdict import judge

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
        for stage, rate in (("pretrain", 4e-4), ("sft", 2e-4), ("reward", 1e-4))
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


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def answers(right_before: int, right_after: int, *, as_chat: bool = False) -> list[dict[str, str]]:
    return [
        {
            "prompt": chat(question) if as_chat else question,
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
    parents = {"model": model, "dataset": f"data-{stage}"}
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
        samples = answers(1, 7, as_chat=True)
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
                "chosen": chat(q) + a + "<|im_end|>",
                "rejected": chat(q) + b + "<|im_end|>",
                "score_chosen": f"{1.8 - i / 2:.3f}",
                "score_rejected": f"{i / 2 - 1.9:.3f}",
            }
            for i, (q, a, b) in enumerate(QUESTIONS)
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
    metrics = {
        "prompts": 256,
        "exact_answer": {"before": 0.0117, "after": 0.8125, "gain": 0.8008, "gain_low": 0.75, "gain_high": 0.8477},
        "reward": {"before": -1.204, "after": 1.871, "gain": 3.075, "gain_low": 2.85, "gain_high": 3.29},
    }
    made.artifact(
        "evaluate",
        "evaluate",
        "evaluation",
        {"model": model, "before": "base", "dataset": "data-rl", "reward": "merge-reward"},
        metrics,
        samples=answers(0, 8),
    )


SECONDS = {"prepare": 63.2, "data": 11.4, "pretrain": 41.0, "sft": 58.8, "reward": 37.9, "rl": 71.3, "evaluate": 9.6}


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
) -> Made:
    """Writes a run up to and including the step `until`; `failed` or `running` end it earlier."""
    made = Made(root)
    made.settings |= settings or {}
    write_base(made)
    model = "base"
    for step in FLOW:
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


# --- the page as a whole -------------------------------------------------------------------------------------------

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
}
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """A strict reading of a page: every element is closed in order; collects elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    @property
    def text(self) -> str:
        shown = " ".join(data for tag, data in self.texts if tag not in ("style", "script"))
        return " ".join(shown.split())

    def all(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        wanted = set(cls.split())
        return [a for name, a in self.elements if name == tag and wanted <= set((a.get("class") or "").split())]

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.elements if "id" in attrs]


def page_of(made: Made) -> Page:
    return Page(render(collect(made.config_uri), NOW))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_page_is_well_formed_and_needs_nothing_else(variant: str, tmp_path: Path) -> None:
    made = make_run(tmp_path, **VARIANTS[variant])
    page = page_of(made)

    assert not [a for _, a in page.elements if "src" in a or "srcset" in a or "action" in a]
    links = [str(a["href"]) for _, a in page.elements if "href" in a]
    assert links
    assert all(link.removeprefix("#") in page.ids() and link.startswith("#") for link in links), links
    assert len(page.ids()) == len(set(page.ids()))
    assert not {"link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.elements}
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert "prefers-color-scheme: dark" in style
    assert not any(word in style for word in ("url(", "@import", "//"))
    assert made.run_id in page.text


def test_the_script_is_the_one_that_the_page_allows(finished: Made) -> None:
    page = page_of(finished)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = [data for tag, data in page.texts if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_text_of_data_and_configuration_stays_text(tmp_path: Path) -> None:
    made = make_run(tmp_path, settings={"notes": EVIL}, until="evaluate")
    evil_rows = [{"prompt": EVIL, "reference": EVIL, "before": EVIL, "answer": EVIL}]
    evil_pairs = [{"chosen": f"{EVIL}a", "rejected": f"{EVIL}b", "score_chosen": "1.0", "score_rejected": "0.5"}]
    metrics: dict[str, Any] = {
        "before": {"reward": 0.0, EVIL: 0.1},
        "after": {"reward": 1.0, EVIL: 0.2},
        "solve_rate": {EVIL: 0.5},
    }
    made.artifact("rl", "rl", "adapter", {"model": "base"}, metrics, [{"step": 1, EVIL: 1.0}], evil_rows)
    made.artifact("reward", "reward", "adapter", {"model": "base"}, {}, samples=evil_pairs)
    dropped = [{"reason": EVIL, "count": 3, "first": EVIL}]
    counts = {"rows": 9, "train": 5, "heldout": 1, "duplicates": 0, "train_rows": 5, "heldout_rows": 1}
    tokens = {"train_tokens": 50, "heldout_tokens": 10, "train_longest": 9, "truncated": 0, "dropped": dropped}
    made.record("data", made.artifact("data-rl", "data-rl", "dataset", {}, {**counts, **tokens}))
    made.record("evaluate", state="failed", error={"code": 2, "reason": EVIL, "where": EVIL, "hint": EVIL})
    made.store.write(f"runs/{made.run_id}/request.json", json.dumps({"preset": EVIL, "base": EVIL}).encode())

    page = page_of(made)

    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    # Shown as text, not left out: configuration, errors, samples, pairs, drops, groups, metrics, request.
    assert page.text.count("onerror=alert(1)") >= 15


def test_the_reader_meets_the_run_in_order(finished: Made) -> None:
    page = page_of(finished)
    order = ["flow", "prepare", "pretrain", "sft", "reward", "rl", "evaluate", "data", "lineage", "configuration"]

    assert [name for name in page.ids() if not name.startswith("artifact-")] == order
    for words in (
        "Every stage beat its input on held-out data.",
        "Base against final model on 256 held-out prompts: reward −1.20 → 1.87, exact answer 0.0117 → 0.812.",
        "llama, 4 × 128, 1.312 M parameters, made from scratch",
        "Took 4 min 57 s",
        "LoRA of rank 16 on all linear layers, 262,144 parameters",
        "120 rollouts of 64 answers",
        "right to the letter: 1 before, 7 after, of 9 shown",
        "+1.23 to +1.61",
        "833 the answers differ in their number of tokens",
        "row that begins 'Which chapter is J45.40 in?'",
        "learning_rate: 5.0e-05",
        "transformers 5.23.0",
    ):
        assert words in page.text
    assert len(page.all("svg", "chart")) == 4 + 4 + 4 + 5 + 16


def test_states_are_shown_by_shape_and_word(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, **VARIANTS["reused and off"]))
    nodes = [str(a["class"]).split()[1] for a in page.all("li", "node")]

    assert nodes == ["reused", "reused", "off", "reused", "done", "done", "off", "done"]
    assert "reused made in 58.8 s" in page.text
    assert "Switched off: what came in was handed on." in page.text
    assert "Every stage that ran beat its input on held-out data." in page.text
    assert "There is no final evaluation of base against final model." in page.text


def test_a_failed_run_has_a_page_that_says_so(tmp_path: Path) -> None:
    made = make_run(tmp_path, **VARIANTS["failed"])
    work = f"work/rl/0123/{made.run_id}/metrics.jsonl"
    made.store.write(work, b'{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.7}\n{"step": 3, "rew')
    page = page_of(made)

    assert judge(collect(made.config_uri)).tone == "bad"
    sentence = "components.rl: was killed, most likely for lack of memory; use smaller batches"
    assert f"Reinforcement learning failed: {sentence}." in page.text
    assert "Evaluation did not run." in page.text
    assert [str(a["class"]).split()[1] for a in page.all("li", "node")][5:7] == ["failed", "pending"]
    assert "2 of 120 rollouts" in page.text
    assert "Reward: 0.500 at step 1, 0.700 at step 2" in [a["aria-label"] for a in page.all("svg", "chart")]


def test_a_running_run_shows_how_far_it_got(tmp_path: Path) -> None:
    run = collect(make_run(tmp_path, running="reward").config_uri)
    verdict = judge(run)

    assert verdict.tone == "running"
    assert verdict.sentence == "Still running: reward model."
    assert verdict.details == ("So far: pre-training perplexity 25.7 → 4.90; fine-tuning loss 3.25 → 1.59.",)
    assert run.step("evaluate").state == "pending"
    assert "Newest model" in Page(render(run, NOW)).text


def test_a_result_that_was_removed_is_named(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    made.store.remove(made.uris["sft"].removeprefix(f"{made.root}/"))
    run = collect(made.config_uri)

    assert judge(run).tone == "bad"
    assert made.uris["sft"] in judge(run).sentence
    assert "it has no manifest.json" in Page(render(run, NOW)).text


def test_a_store_that_was_moved_gives_the_same_page(tmp_path: Path) -> None:
    made = make_run(tmp_path / "a store")
    before = collect(made.config_uri)
    (tmp_path / "a store").rename(tmp_path / "b")
    after = collect(f"{tmp_path}/b/runs/{made.run_id}/config.yaml")

    assert [step.metrics for step in after.steps] == [step.metrics for step in before.steps]
    assert [a.manifest.digest for a in after.lineage] == [a.manifest.digest for a in before.lineage]


def test_the_data_steps_artifacts_are_told_apart_in_a_root_with_spaces() -> None:
    uris = ["/a b/artifacts/data-sft/1f", "/a b/artifacts/data-rl/2e"]
    assert artifact_uris(" ".join(uris)) == uris
    assert artifact_uris("") == []


# --- what is better ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "before", "after", "gain", "outcome"),
    [
        ("perplexity", 25.0, 5.0, None, "better"),
        ("loss", 1.0, 1.5, None, "worse"),
        ("accuracy", 0.5, 0.9, None, "better"),
        ("exact_match", 0.5, 0.4, None, "worse"),
        ("reward", 0.5, 0.5, None, "same"),
        ("a_reward_function", 0.1, 0.2, None, "better"),
        ("kl", 0.0, 2.0, None, "none"),
        ("accuracy", None, 0.9, None, "none"),
        ("reward", 0.1, 0.2, Interval(0.05, 0.15), "better"),
        ("reward", 0.1, 0.2, Interval(-0.01, 0.21), "unclear"),
        ("reward", 0.3, 0.2, Interval(-0.2, -0.05), "worse"),
        ("exact", 0.0, 0.0, Interval(0.0, 0.0), "same"),
    ],
)
def test_outcome(name: str, before: float | None, after: float, gain: Interval | None, outcome: str) -> None:
    assert Comparison(name, before, after, gain).outcome == outcome


def test_outcomes_are_coloured_in_the_direction_of_improvement(finished: Made) -> None:
    run = collect(finished.config_uri)
    by_stage = {
        step.name: {c.name: c.outcome for c in stage_comparisons(step.metrics)} for step in run.steps if step.metrics
    }

    assert by_stage["pretrain"] == {"perplexity": "better", "loss": "better"}
    assert list(by_stage["rl"]) == ["reward", "exact_answer", "kl", "ended"]
    assert by_stage["rl"]["kl"] == "none"
    assert by_stage["reward"]["accuracy_head_only"] == "none"
    assert not page_of(finished).all("td", "change worse")
    worse = make_run(finished.root.parent / "worse", changes={"sft": {"after": {"loss": 3.9}}})
    assert len(page_of(worse).all("td", "change worse")) == 1


def test_verdict_weighs_intervals(tmp_path: Path) -> None:
    unclear = {"after": {"reward": 0.43}, "reward_gain": {"mean": 0.018, "low": -0.05, "high": 0.09}}
    verdict = judge(collect(make_run(tmp_path / "unclear", changes={"rl": unclear}).config_uri))
    assert verdict.tone == "mixed"
    assert verdict.sentence == (
        "Reinforcement learning did not beat its input: reward 0.412 → 0.430, which may be chance."
    )
    fell = {"after": {"exact_answer": 0.41}, "exact_answer_gain": {"mean": -0.14, "low": -0.2, "high": -0.08}}
    verdict = judge(collect(make_run(tmp_path / "fell", changes={"rl": fell}).config_uri))
    assert verdict.tone == "mixed"
    assert verdict.sentence.startswith("Every stage beat its input")
    assert verdict.details[0] == "Worse than before: exact answer 0.555 → 0.410 (reinforcement learning)."


def test_shares_of_known_size_have_an_interval() -> None:
    interval = wilson(0.8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(1.0, 377).high == 1.0
    after = {"accuracy": 0.5, "accuracy_equal_length": 0.8, "pairs": 90, "pairs_equal_length": 10, "loss": 1.0}
    found = {c.name: c.certainty for c in stage_comparisons({"after": after})}
    assert found["accuracy_equal_length"] == interval
    assert found["accuracy"] == wilson(0.5, 90)
    assert found["loss"] is None


def test_final_comparisons_read_the_evaluations_metrics() -> None:
    gain = {"gain": 0.7, "gain_low": 0.6, "gain_high": 0.8}
    metrics = {"prompts": 64, "exact": {"before": 0.1, "after": 0.8, **gain}, "reward": {"after": 1.0}}
    reward, exact = final_comparisons(metrics)

    assert (exact.name, exact.before, exact.after, exact.gain) == ("exact", 0.1, 0.8, Interval(0.6, 0.8))
    assert (reward.before, reward.gain, reward.sentence()) == (None, None, "reward 1.00")


# --- curves --------------------------------------------------------------------------------------------------------


def test_no_point_no_chart() -> None:
    assert line_chart([], describe("loss")) == ""
    assert line_chart([(1, math.nan), (2, math.inf)], describe("loss")) == ""


@pytest.mark.parametrize(
    "points",
    [
        [(5, 1.0)],
        [(1, 0.05), (2, 0.05), (3, 0.05)],
        [(1, 0.0), (2, 0.0)],
        [(1, 1.0), (2, math.nan), (3, 2.0)],
        [(1, -3.0), (2, 1e9)],
        [(1, 1e-9), (2, 2e-9)],
        [(1, 0.693147), (2, 0.693148)],
        [(step, math.sin(step) * step) for step in range(1, 5000)],
    ],
)
def test_charts_stay_inside_their_frame(points: list[tuple[float, float]]) -> None:
    chart = Page(line_chart(points, describe("margin")))
    (svg,) = chart.all("svg")
    _, _, width, height = map(float, str(svg["viewbox"]).split())
    places = [tuple(map(float, place.split(","))) for a in chart.all("polyline") for place in str(a["points"]).split()]

    assert places
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert "nan" not in str(line_chart(points, describe("margin"))).lower()
    labels = [data for tag, data in chart.texts if tag == "text"]
    assert len(labels) == len(chart.all("text")) >= 2
    assert len(chart.all("circle", "end")) == 1
    assert len(str(svg["data-points"]).split()) <= 600


def test_a_value_is_drawn_where_its_axis_says() -> None:
    chart = Page(line_chart([(1000, 0.0), (2000, 10.0)], describe("margin")))
    ticks = {data: float(str(a["y"])) - 3.8 for (_, data), a in zip(chart.texts, chart.all("text"), strict=True)}
    (line,) = chart.all("polyline", "raw")
    (_, first), (_, last) = (map(float, place.split(",")) for place in str(line["points"]).split())

    assert first == pytest.approx(ticks["0"], abs=0.11)
    assert last == pytest.approx(ticks["10.0"], abs=0.11)


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.2, 0.8, ["−0.2", "0", "0.2", "0.4", "0.6", "0.8"]),
        (0.6931, 0.6943, ["0.69325", "0.69350", "0.69375", "0.69400", "0.69425"]),
        (0.0, 4.1e-4, ["0", "1e-4", "2e-4", "3e-4", "4e-4"]),
        (0.0, 21000.0, ["0", "5k", "10k", "15k", "20k"]),
        (0.0, 3.2e6, ["0", "1M", "2M", "3M"]),
    ],
)
def test_ticks_are_round_and_written_alike(low: float, high: float, written: list[str]) -> None:
    ticks = nice_ticks(low, high, 5)
    write = tick_writer(ticks)
    assert [write(tick) for tick in ticks] == written


def test_shares_have_ticks_in_per_cent() -> None:
    ticks = nice_ticks(0.55, 1.0, 5)
    assert [tick_writer(ticks, is_share=True)(tick) for tick in ticks] == ["60 %", "70 %", "80 %", "90 %", "100 %"]


def test_thinning_keeps_spikes_and_ends() -> None:
    points = [(float(step), 0.0) for step in range(10_000)]
    points[4321] = (4321.0, 9.0)
    points[8765] = (8765.0, -9.0)
    kept = thin(points, 600)

    assert len(kept) <= 600
    assert {points[0], points[4321], points[8765], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:600], 600) == points[:600]


def test_smoothing_neither_lags_nor_bends_at_the_ends() -> None:
    line = [(float(step), 3.0 - 0.5 * step) for step in range(100)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    rng = random.Random(0)
    noisy = [(x, y + rng.gauss(0, 1)) for x, y in line]
    off = [abs(smooth - y) for (_, smooth), (_, y) in zip(smoothed(noisy), line, strict=True)]
    assert sum(off) / len(off) < 0.4
    assert is_noisy([y + rng.gauss(0, 1) for y in [0.0] * 50])
    assert not is_noisy([y for _, y in line])


def test_a_noisy_curve_has_a_smooth_line_and_a_quiet_one_has_not() -> None:
    rng = random.Random(1)
    noisy = Page(line_chart([(step, rng.gauss(0, 1)) for step in range(200)], describe("reward")))
    quiet = Page(line_chart([(step, 1 / (1 + step)) for step in range(200)], describe("lr")))

    assert len(noisy.all("polyline", "smooth")) == len(noisy.all("polyline", "raw faint")) == 1
    assert not quiet.all("polyline", "smooth")


def test_curves_are_read_up_to_the_last_whole_line() -> None:
    text = '{"step": 1, "loss": 2.0, "lr": 0.1}\n{"step": 2, "loss": NaN, "lr": 0.2}\n{"step": 3, "lo'
    assert parse_curves(text) == {"loss": ((1.0, 2.0),), "lr": ((1.0, 0.1), (2.0, 0.2))}
    assert parse_curves("") == {}


# --- samples, data, lineage ----------------------------------------------------------------------------------------


def test_turns_are_shown_without_the_templates_tokens() -> None:
    assert [(p.role, p.text) for p in turns(chat("Which side?"))] == [("", "Which side?")]
    dialogue = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nA?\nB?<|im_end|>\n<|im_start|>assistant\n"
    assert [(p.role, p.text) for p in turns(dialogue)] == [("system", "Be brief."), ("user", "A?\nB?")]
    llama = "<|start_header_id|>user<|end_header_id|>\n\nA?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert [(p.role, p.text) for p in turns(llama)] == [("", "A?")]
    assert [(p.role, p.text) for p in turns("user\nis a word here")] == [("", "user\nis a word here")]


def test_answers_equal_to_the_reference_are_marked() -> None:
    sample = {"prompt": "p", "reference": "right", "before": "left", "answer": "right"}
    (row,) = answer_rows([sample])
    assert row.before is not None
    assert (row.before.is_right, row.after.is_right) == (False, True)
    (continued,) = answer_rows([sample], continued=True)
    assert not continued.after.is_right
    (unknown,) = answer_rows([{"prompt": "p", "reference": "", "answer": ""}])
    assert unknown.before is None
    assert not unknown.after.is_right


def test_a_pairs_prompt_ends_where_the_answer_begins() -> None:
    same_start = {"chosen": chat("Q?") + "right arm<|im_end|>", "rejected": chat("Q?") + "right leg<|im_end|>"}
    (row,) = pair_rows([{**same_start, "score_chosen": "0.2", "score_rejected": "0.3"}])
    texts = [[piece.text for piece in part] for part in (row.prompt, row.chosen, row.rejected)]

    assert texts == [["Q?"], ["right arm"], ["right leg"]]
    assert not row.is_right


def test_all_rows_of_a_dataset_are_accounted_for(finished: Made) -> None:
    run = collect(finished.config_uri)
    for dataset in dataset_views(run):
        assert sum(part.rows for part in dataset.parts) == dataset.rows, dataset.title
        assert sum(part.share for part in dataset.parts) == pytest.approx(1)
    rl = dataset_views(run)[3]
    assert {part.label: part.rows for part in rl.parts}["held out, not used"] == 44
    assert {rate.group: rate.is_kept for rate in solve_rates(run)} == {
        "chapter": False,
        "encounter": True,
        "full text": False,
        "side": True,
    }


def test_lineage_names_parents_before_children(finished: Made) -> None:
    views = artifact_views(collect(finished.config_uri))
    place = {view.anchor: index for index, view in enumerate(views)}

    assert len(views) == len(finished.uris) == 15
    assert all(place[parent.anchor] < place[view.anchor] for view in views for parent in view.parents)
    merged = next(view for view in views if view.title == "Merge of reinforcement learning")
    assert [(parent.name, parent.title) for parent in merged.parents] == [
        ("adapter", "Reinforcement learning"),
        ("base", "Merge of fine-tuning"),
    ]
    assert merged.uri == finished.uris["merge-rl"]


def test_record_lists_steps_with_artifacts_digests_and_parents(finished: Made) -> None:
    record = run_record(collect(finished.config_uri))
    steps = {step["step"]: step for step in record["steps"]}

    assert list(steps) == list(FLOW[:-1])
    assert len(steps["data"]["artifacts"]) == 4
    assert steps["sft"]["state"] == "done"
    assert steps["sft"]["seconds"] == SECONDS["sft"]
    (sft,) = steps["sft"]["artifacts"]
    assert (sft["uri"], sft["digest"]) == (finished.uris["sft"], finished.digests["sft"])
    assert sft["parents"]["model"]["digest"] == finished.digests["merge-pretrain"]
    assert json.loads(json.dumps(record)) == record


# --- card, numbers, command line -----------------------------------------------------------------------------------


def test_model_card_has_front_matter_that_the_hub_reads(finished: Made) -> None:
    from huggingface_hub import ModelCard

    text = model_card(collect(finished.config_uri))
    assert text is not None
    data: Any = ModelCard(text).data

    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    results = {result.metric_type: result.metric_value for result in data.eval_results or []}
    assert results == {"reward": 1.871, "exact_answer": 0.8125}
    assert data.base_model is None
    for words in ("## Limitations", finished.digests["merge-rl"], "exact match 1.9 % → 71.1 %", "LoRA of rank 16"):
        assert words in text


def test_model_card_names_what_the_hub_knows(tmp_path: Path) -> None:
    sources = [
        {"path": "owner/some-data:train", "digest": "name:owner/some-data:train"},
        {"path": "/x", "digest": "sha256:1"},
    ]
    made = make_run(tmp_path, settings={"data": {"sft": {"sources": sources}}})
    made.store.write(f"runs/{made.run_id}/request.json", b'{"preset": "p", "base": "owner/a-model"}')
    assert front_matter(collect(made.config_uri))["datasets"] == ["owner/some-data"]
    assert "base_model" not in front_matter(collect(made.config_uri))
    made.record("prepare", made.artifact("base", "base", "model", config={"digest": "hub:0f1e"}))
    assert front_matter(collect(made.config_uri))["base_model"] == "owner/a-model"


def test_model_card_is_of_the_newest_model_and_honest_about_it(tmp_path: Path) -> None:
    text = model_card(collect(make_run(tmp_path / "failed", **VARIANTS["failed"]).config_uri))
    assert text is not None
    assert "the model after fine-tuning" in text
    assert "The run was not a full success" in text
    assert model_card(collect(make_run(tmp_path / "none", **VARIANTS["failed at once"]).config_uri)) is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.number(4.9021), "4.90"),
        (formats.number(25.683), "25.7"),
        (formats.number(513.27), "513"),
        (formats.number(1394.2), "1,394"),
        (formats.number(-0.0042876), "−0.00429"),
        (formats.number(0.9996), "1.00"),
        (formats.number(4.7e-7), "4.7e-7"),
        (formats.number(0), "0"),
        (formats.percent(0.9602), "96.0 %"),
        (formats.percent(1.0), "100 %"),
        (formats.count(139_584), "139,584"),
        (formats.count(134_515_008), "134.5 M"),
        (formats.rate(2e-4), "2e-4"),
        (formats.rate(0.004), "0.004"),
        (formats.size(558_336), "545 KiB"),
        (formats.duration(0.746), "0.7 s"),
        (formats.duration(59.97), "1 min 00 s"),
        (formats.duration(167.44), "2 min 47 s"),
        (formats.duration(3840), "1 h 04 min"),
        (formats.when(1795517303.3), "24 Nov 2026, 10:48 UTC"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_two_values_have_the_digits_that_tell_them_apart() -> None:
    assert describe("loss").show_pair(3.20061, 3.20449) == ("3.201", "3.204")
    assert describe("loss").show_pair(2.0, 2.0) == ("2.00", "2.00")
    assert describe("accuracy").show_pair(0.50001, 0.50049) == ("50.00 %", "50.05 %")


def test_configuration_keys_are_told_from_values() -> None:
    assert yaml_lines("a:\n  b: x: y\n- path: p\n- q") == [
        ("a:", ""),
        ("  b:", " x: y"),
        ("- path:", " p"),
        ("", "- q"),
    ]


def test_total_time_leaves_the_report_out(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    made.record("report", state="failed", seconds=500.0, error={"code": 1, "reason": "an earlier attempt"})
    run = collect(made.config_uri)
    assert total_seconds(run) == pytest.approx(sum(SECONDS.values()) + 4 * 0.9, abs=1e-3)
    assert judge(run).tone == "good"


def test_command_writes_page_record_and_card(finished: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", finished.config_uri]) == 0
    folder = finished.root / "runs" / finished.run_id

    assert Page((folder / "report" / "index.html").read_text(encoding="utf-8")).all("section")
    assert (folder / "report" / "MODEL_CARD.md").read_text(encoding="utf-8").startswith("---\n")
    assert json.loads((folder / "record.json").read_text(encoding="utf-8"))["run_id"] == finished.run_id
    assert "report/index.html" in capsys.readouterr().out


def test_command_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "config.yaml")]) == 2
    assert main(["--config", str(tmp_path / "runs" / "none" / "config.yaml")]) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("is not the configuration of a run; give <store>/runs/<run id>/config.yaml")
    assert "no such file" in second
    assert not list(tmp_path.iterdir())


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, components.report.page, components.report.card\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'kfp', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
