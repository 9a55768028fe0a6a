"""The page's section on one stage: facts, comparisons, curves, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from components.common.errors import error_from_dict
from components.report import formats
from components.report.charts import line_chart
from components.report.collect import RunData, StepData
from components.report.compare import Comparison, final_comparisons, measured_on, stage_comparisons
from components.report.lineage import ArtifactView
from components.report.metrics import Metric, describe, is_reward, rank
from components.report.samples import AnswerRow, PairRow, answer_rows, pair_rows
from components.report.verdict import title

_FIRST_CURVES = {
    "reward": ("loss", "accuracy", "margin"),
    "dpo": ("loss", "accuracy", "margin", "log_prob_chosen", "log_prob_rejected"),
    "rl": ("kl", "entropy", "completion_tokens", "ended", "clipped", "value_loss", "explained_variance"),
}
_OTHER_FIRST_CURVES = ("loss", "token_accuracy", "lr")


@dataclass(frozen=True)
class Chart:
    """A curve: what it shows, its last value, the picture."""

    metric: Metric
    last: str
    svg: Markup


@dataclass(frozen=True)
class StageView:
    """What the page says of a stage.

    Attributes:
        name: The step.
        title: Its name in words.
        state: Its state.
        time: How long it took, in words.
        error: Why it failed, or why its result cannot be read.
        facts: Label and value.
        comparisons: Before against after.
        charts: Curves to be seen first.
        more_charts: The others.
        by: What a curve's step is.
        answers: Sample answers.
        right: How many of them are right before and after; None where none can be.
        pairs: Preference pairs.
        result: The artifact in the lineage.
    """

    name: str
    title: str
    state: str
    time: str
    error: str
    facts: list[tuple[str, str]]
    comparisons: list[Comparison]
    charts: list[Chart]
    more_charts: list[Chart]
    by: str
    answers: list[AnswerRow]
    right: tuple[int | None, int] | None
    pairs: list[PairRow]
    result: ArtifactView | None


def stage_views(run: RunData, artifacts: Sequence[ArtifactView]) -> list[StageView]:
    """Sections in the flow's order. Preparing has one only if it trained the base, or failed."""
    known = {artifact.digest: artifact for artifact in artifacts}
    prepare = run.step("prepare")
    shown = [*([prepare] if _trained_base(prepare) else []), *run.training, run.step("evaluate")]
    return [_view(run, step, known) for step in shown]


def time_spent(step: StepData) -> str:
    """`2 min 47 s`; for a result of an earlier run the time that one took."""
    if step.record is None or step.state in ("off", "running"):
        return ""
    if step.state == "reused":
        return f"made in {formats.duration(step.record.made_in)}" if step.record.made_in else ""
    return formats.duration(step.record.seconds)


def error_of(step: StepData) -> str:
    """Why a step failed, or why its result cannot be read."""
    if step.record is not None and step.state == "failed":
        return str(error_from_dict(step.record.error))
    return step.problem


def _trained_base(prepare: StepData) -> bool:
    return prepare.state == "failed" or "after" in prepare.metrics


def _view(run: RunData, step: StepData, known: Mapping[str, ArtifactView]) -> StageView:
    compare = final_comparisons if step.name == "evaluate" else stage_comparisons
    pairs = [sample for sample in step.samples if "score_chosen" in sample]
    answered = [sample for sample in step.samples if "answer" in sample]
    answers = answer_rows(answered, continued=step.name in ("prepare", "pretrain"))
    first, more = _charts(step)
    return StageView(
        name=step.name,
        title=title("base") if step.name == "prepare" else title(step.name),
        state=step.state,
        time=time_spent(step),
        error=error_of(step),
        facts=_facts(run, step),
        comparisons=compare(step.metrics),
        charts=first,
        more_charts=more,
        by="rollout batch" if step.name == "rl" else "optimizer step",
        answers=answers,
        right=_right(answers),
        pairs=pair_rows(pairs),
        result=known.get(step.artifact.manifest.digest) if step.artifact else None,
    )


def _charts(step: StepData) -> tuple[list[Chart], list[Chart]]:
    wanted: tuple[str, ...] = _FIRST_CURVES.get(step.name, _OTHER_FIRST_CURVES)
    if step.name == "rl":
        rewards = sorted((name for name in step.curves if is_reward(name)), key=rank)
        wanted = (*rewards, *wanted)
    first = [name for name in wanted if name in step.curves]
    return _drawn(step, first), _drawn(step, sorted(set(step.curves) - set(first), key=rank))


def _drawn(step: StepData, names: list[str]) -> list[Chart]:
    drawn = []
    for name in names:
        metric = describe(name)
        points = step.curves[name]
        drawn.append(Chart(metric, metric.show(points[-1][1]), line_chart(points, metric)))
    return drawn


def _right(answers: list[AnswerRow]) -> tuple[int | None, int] | None:
    """How many of the shown answers are right, if any is: else the references may not be meant to the letter."""
    after = sum(row.after.is_right for row in answers)
    before = sum(row.before.is_right for row in answers if row.before)
    if not before and not after:
        return None
    return before if any(row.before for row in answers) else None, after


def _facts(run: RunData, step: StepData) -> list[tuple[str, str]]:
    config: Mapping[str, Any] = run.config.get(step.name) or {}
    if step.name == "prepare":
        config = run.config.get("model", {}).get("scratch", {}).get("train", {})
    sizes = [f"{count:,} {name}" for name, count in measured_on(step.metrics).items()]
    trains = step.state != "off" and step.name != "evaluate"
    facts = [
        *(training_facts(config, step) if trains else []),
        ("Held-out data", ", ".join(sizes)),
        ("Merged", _merged(run.step(f"merge-{step.name}"))),
    ]
    return [(label, value) for label, value in facts if value]


def training_facts(config: Mapping[str, Any], step: StepData) -> list[tuple[str, str]]:
    """Label and value of how a stage was trained, from its section of the configuration."""
    lora = config.get("lora")
    where = "" if not lora else lora.get("target_modules", "")
    layers = "all linear layers" if where == "all-linear" else where if isinstance(where, str) else ", ".join(where)
    trained = f"LoRA of rank {lora.get('r')} on {layers}" if lora else "all parameters"
    parameters = step.metrics.get("trainable_parameters")
    rates = [config.get("learning_rate"), config.get("critic_learning_rate")]
    rate = " and ".join(formats.rate(value) for value in rates if value is not None)
    return [
        ("Trained", trained + (f", {formats.count(parameters)} parameters" if parameters else "")),
        ("Learning rate", f"{rate}, {config.get('lr_scheduler_type', '')}".strip(", ")),
        ("Steps", _steps(config, step)),
    ]


def _steps(config: Mapping[str, Any], step: StepData) -> str:
    reached = max((points[-1][0] for points in step.curves.values()), default=0.0)
    limit = config.get("max_steps", -1)
    if not reached:
        return ""
    unfinished = step.state in ("running", "failed") and limit > 0
    steps = f"{reached:,.0f} of {limit:,}" if unfinished else f"{max(reached, limit):,.0f}"
    if "rollout_batch_size" in config:
        return f"{steps} rollouts of {config['rollout_batch_size']} answers"
    return f"{steps} of {config['train_batch_size']} {'pairs' if step.name in ('reward', 'dpo') else 'rows'}"


def _merged(step: StepData) -> str:
    metrics = step.metrics
    if step.state == "failed":
        return "failed"
    if "tensors_merged" not in metrics:
        return ""
    changed = metrics["tensors_merged"] + metrics.get("tensors_replaced", 0)
    parts = [f"{changed} of {changed + metrics.get('tensors_copied', 0)} tensors", formats.size(metrics["bytes"])]
    return ", ".join([*parts, *filter(None, [time_spent(step)])])
