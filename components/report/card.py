"""The final model's card: front matter that the hub reads, then what a user of the model must know."""

from __future__ import annotations

import re
from typing import Any

import yaml

from components.data.records import TASKS
from components.report import formats
from components.report.collect import RunData, StepData
from components.report.compare import Comparison, final_comparisons, stage_comparisons
from components.report.data_view import dataset_views
from components.report.page import base_model
from components.report.stages import training_facts
from components.report.verdict import headlines, judge, title


def model_card(run: RunData) -> str | None:
    """Writes the card of the newest model that the run trained; None if there is none yet."""
    model = run.final_model()
    if model is None:
        return None
    verdict = judge(run)
    front = yaml.safe_dump(front_matter(run), sort_keys=False, allow_unicode=True)
    sections = [
        f"# Run {plain(run.run_id)}: the model after {title(model.step.removeprefix('merge-')).lower()}",
        f"{plain(verdict.sentence)}\n" + "\n".join(plain(detail) for detail in verdict.details),
        "## How it was made",
        f"Base model: {plain(base_model(run)) or 'not recorded'}. Seed {run.config.get('seed', 0)}.",
        _stages(run),
        "## Data",
        _data(run),
        "## Evaluation",
        _evaluation(run),
        "## Use",
        "The folder is a plain Transformers model: `AutoModelForCausalLM.from_pretrained` and"
        " `AutoTokenizer.from_pretrained` load it; prompts go through the tokenizer's chat template."
        " The licences of the base model and of the data apply.",
        f"Artifact `{plain(model.uri)}`, digest `{model.manifest.digest}`.",
        "## Limitations",
        _limitations(run),
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{front}---\n\n{body}\n"


def front_matter(run: RunData) -> dict[str, Any]:
    """The card's metadata in the hub's terms; what the run does not know, such as a licence, is left out."""
    trained = [step for step in run.training if step.artifacts]
    base = run.step("prepare").artifact
    is_of_hub = base is not None and str(base.manifest.config.get("digest", "")).startswith("hub:")
    data = run.config.get("data") or {}
    sources = [
        source["path"].removeprefix("hf://").partition(":")[0]
        for task in TASKS
        for source in (data.get(task) or {}).get("sources") or ()
        if str(source.get("digest", "")).startswith("hub:")  # a data set that the hub knows by this name
    ]
    results = _results(run)
    fields = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": run.request.get("base") if is_of_hub else None,
        "datasets": sorted(set(sources)),
        "tags": ["rlhf", *(step.name for step in trained)],
        "model-index": [{"name": run.run_id, "results": results}] if results else None,
    }
    return {name: value for name, value in fields.items() if value}


def plain(text: str) -> str:
    """Text from data or configuration that Markdown and HTML take literally."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _results(run: RunData) -> list[dict[str, Any]]:
    comparisons = final_comparisons(run.step("evaluate").metrics)
    if not comparisons:
        return []
    metrics = [{"type": c.name, "name": c.metric.label, "value": round(c.after, 6)} for c in comparisons]
    task = {"type": "text-generation", "name": "Text generation"}
    return [{"task": task, "dataset": {"type": "held-out", "name": "Held-out prompts"}, "metrics": metrics}]


def _stages(run: RunData) -> str:
    rows = [_stage_row(run, step) for step in run.training]
    head = [
        "| Stage | State | Held out, before → after | Trained | Learning rate | Steps |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _stage_row(run: RunData, step: StepData) -> str:
    how = dict(training_facts(run.config[step.name], step)) if step.artifacts else {}
    change = ", ".join(comparison.sentence() for comparison in headlines(step))
    state = {"pending": "not run"}.get(step.state, step.state)
    facts = (plain(how.get(label, "")) for label in ("Trained", "Learning rate", "Steps"))
    return f"| {title(step.name)} | {state} | {plain(change)} | {' | '.join(facts)} |"


def _data(run: RunData) -> str:
    rows = []
    for dataset in dataset_views(run):
        kept = {part.kind: f"{part.rows:,}" for part in dataset.parts}
        rows.append(f"| {dataset.title} | {dataset.rows:,} | {kept.get('train', '0')} | {kept.get('heldout', '0')} |")
    return "\n".join(["| Data | Rows read | Trained on | Held out |", "|---|---|---|---|", *rows]) if rows else ""


def _evaluation(run: RunData) -> str:
    comparisons = final_comparisons(run.step("evaluate").metrics)
    if not comparisons:
        return "There is no final evaluation."
    rows = [_evaluation_row(comparison) for comparison in comparisons]
    return "\n".join(["| Metric | Base | This model | Change, 95 % interval |", "|---|---|---|---|", *rows])


def _evaluation_row(comparison: Comparison) -> str:
    metric, gain = comparison.metric, comparison.gain
    before, after = comparison.values()
    change = f"{metric.show_change(gain.low)} to {metric.show_change(gain.high)}" if gain else ""
    return f"| {plain(metric.label)} | {before} | {after} | {change} |"


def _limitations(run: RunData) -> str:
    """What the run itself shows, and what nobody measured."""
    lines = [
        "- Measured on held-out rows of the training data only; nothing is known of other tasks, topics or languages.",
        "- Not tested for harmful, biased or false answers. What the base model gets wrong, this one may too.",
    ]
    accuracy = {c.name: c for c in stage_comparisons(run.step("reward").metrics)}.get("accuracy")
    if accuracy and run.step("rl").artifacts:
        lines.append(
            f"- Trained to please a reward model that ranks {formats.percent(accuracy.after)} of held-out pairs right:"
            " a high reward is not a right answer."
        )
    if run.step("dpo").artifacts:
        lines.append(
            "- Trained on which of two answers is preferred: that one has become more likely beside the other, not"
            " necessarily more likely than it was."
        )
    if judge(run).tone != "good":
        lines.append("- The run was not a full success: see the first paragraph.")
    return "\n".join(lines)
