"""The run in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.common.errors import error_from_dict
from components.launcher.summary import HEADLINES
from components.report.collect import RunData, StepData
from components.report.compare import Comparison, final_comparisons, measured_on, stage_comparisons
from components.report.formats import listed

Tone = Literal["good", "mixed", "bad", "running"]

TITLES = {
    "prepare": "Prepare",
    "data": "Data",
    "pretrain": "Pre-training",
    "sft": "Fine-tuning",
    "reward": "Reward model",
    "rl": "Reinforcement learning",
    "dpo": "Preference optimisation",
    "merge": "Merge",
    "evaluate": "Evaluation",
    "report": "Report",
    "base": "Base model",
    "source": "Sources",
    "data-pretrain": "Documents",
    "data-sft": "Conversations",
    "data-reward": "Preference pairs",
    "data-rl": "Prompts",
}


@dataclass(frozen=True)
class Verdict:
    """What became of a run.

    Attributes:
        tone: For its colour.
        sentence: What a reader should know if nothing else.
        details: What comes after.
    """

    tone: Tone
    sentence: str
    details: tuple[str, ...] = ()


def title(step: str) -> str:
    """A step's name in words: `merge-sft` is the merge after fine-tuning."""
    if step.startswith("merge-"):
        return f"Merge of {title(step.removeprefix('merge-')).lower()}"
    return TITLES.get(step, step.replace("-", " ").capitalize())


def headlines(step: StepData) -> list[Comparison]:
    """A stage's comparisons that say how it went, the decisive one first."""
    found = {comparison.name: comparison for comparison in stage_comparisons(step.metrics)}
    return [found[name] for name in HEADLINES.get(step.name, ()) if name in found]


def judge(run: RunData) -> Verdict:
    """Says how a run went. The report's own step is left out: this is its page."""
    steps = [step for step in run.steps if step.name != "report"]
    failed = [step for step in steps if step.state == "failed"]
    running = [step for step in steps if step.state == "running"]
    pending = [step for step in steps if step.state == "pending"]
    if failed:
        record = failed[-1].record
        assert record is not None
        reached = (_sentence(f"{_names(pending)} did not run."),) if pending else ()
        return Verdict("bad", f"{title(failed[-1].name)} failed: {error_from_dict(record.error)}.", reached)
    if running:
        return Verdict("running", f"Still running: {_names(running)}.", _results(steps))
    if pending:
        return Verdict("mixed", f"Not finished: {_names(pending)} did not run.", _results(steps))
    missing = [step for step in steps if step.problem]
    if missing:
        return Verdict("bad", f"A result is gone: {missing[0].problem}.")
    return _judge_results(run, steps)


def _judge_results(run: RunData, steps: list[StepData]) -> Verdict:
    measured = [(step, headlines(step)[0]) for step in steps if headlines(step)]
    lost = [(step, comparison) for step, comparison in measured if comparison.outcome != "better"]
    details = _final(run)
    if not measured:
        return Verdict("mixed", "No stage was trained: all of them are switched off.", details)
    worse = _clearly_worse(steps, besides=[comparison for _, comparison in lost])
    if not lost:
        every = "Every stage that ran" if any(step.state == "off" for step in steps) else "Every stage"
        return Verdict("mixed" if worse else "good", f"{every} beat its input on held-out data.", worse + details)
    facts = "; ".join(f"{comparison.sentence()}{_how_sure(comparison)}" for _, comparison in lost)
    their = "its" if len(lost) == 1 else "their"
    sentence = _sentence(f"{_names([step for step, _ in lost])} did not beat {their} input: {facts}.")
    return Verdict("mixed" if len(lost) < len(measured) else "bad", sentence, worse + details)


def _how_sure(comparison: Comparison) -> str:
    return ", which may be chance" if comparison.outcome == "unclear" else ""


def _clearly_worse(steps: list[StepData], besides: list[Comparison]) -> tuple[str, ...]:
    """Metrics whose whole interval is on the wrong side, besides those that were named already."""
    found = [
        f"{comparison.sentence()} ({title(step.name).lower()})"
        for step in steps
        for comparison in (*stage_comparisons(step.metrics), *final_comparisons(step.metrics))
        if comparison.gain and comparison.outcome == "worse" and comparison not in besides
    ]
    return (f"Worse than before: {'; '.join(found)}.",) if found else ()


def _final(run: RunData) -> tuple[str, ...]:
    step = run.step("evaluate")
    comparisons = [comparison for comparison in final_comparisons(step.metrics) if comparison.before is not None]
    if not comparisons:
        return ("There is no final evaluation of base against final model.",) if step.state == "off" else ()
    prompts = measured_on(step.metrics).get("prompts")
    on = f" on {prompts:,} held-out prompts" if prompts else ""
    return (f"Base against final model{on}: {', '.join(c.sentence() for c in comparisons)}.",)


def _results(steps: list[StepData]) -> tuple[str, ...]:
    done = [f"{title(step.name).lower()} {headlines(step)[0].sentence()}" for step in steps if headlines(step)]
    return (f"So far: {'; '.join(done)}.",) if done else ()


def _names(steps: list[StepData]) -> str:
    """Steps as a sentence lists them; merges go without saying beside the stages they belong to."""
    steps = [step for step in steps if not step.name.startswith("merge-")] or steps
    return listed([title(step.name).lower() for step in steps])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
