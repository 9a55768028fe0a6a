"""The page: everything a reader is shown of a run, and its rendering into one HTML file."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from components.report import formats
from components.report.collect import RunData, StepData
from components.report.compare import Comparison, final_comparisons
from components.report.data_view import COLUMNS, dataset_views, solve_rates
from components.report.lineage import artifact_views
from components.report.stages import error_of, stage_views, time_spent
from components.report.verdict import headlines, judge, title

STATES = {
    "done": "done",
    "reused": "reused",
    "off": "off",
    "failed": "failed",
    "running": "running",
    "pending": "not run",
}
_SHORT = {"pretrain": "Pretrain", "sft": "SFT", "reward": "Reward", "rl": "RL", "dpo": "DPO", "evaluate": "Evaluate"}


@dataclass(frozen=True)
class FlowNode:
    """A box of the flow.

    Attributes:
        title: Short name.
        state: Its state.
        word: The state in words.
        time: How long it took.
        results: What it changed, the decisive metric first.
        note: What else there is to say.
        anchor: The section on it, if there is one.
        merge: The merge that follows it.
    """

    title: str
    state: str
    word: str
    time: str
    results: list[Comparison]
    note: str = ""
    anchor: str = ""
    merge: FlowNode | None = None


def render(run: RunData, now: float) -> str:
    """Renders a run's page.

    Args:
        run: What `collect` read.
        now: Time of writing, in seconds since 1970.

    Returns:
        HTML that needs nothing beside itself.
    """
    environment = Environment(
        loader=PackageLoader("components.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("style.css", "page.js"))
    artifacts = artifact_views(run)
    stages = stage_views(run, artifacts)
    return environment.get_template("page.html.jinja").render(
        run=run,
        verdict=judge(run),
        facts=header_facts(run),
        flow=flow(run, {stage.name for stage in stages}),
        stages=stages,
        states=STATES,
        columns=COLUMNS,
        datasets=dataset_views(run),
        solve_rates=solve_rates(run),
        solve_range=(run.config.get("rl") or {}).get("solve_rate") or {},
        artifacts=artifacts,
        yaml=yaml_lines(run.config_text),
        versions=versions(run),
        written=formats.when(now),
        style=Markup(style),
        script=Markup(script),
        # Text from data is escaped; were some ever not, the browser would still run this script alone.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def header_facts(run: RunData) -> list[tuple[str, str]]:
    """Label and value of what identifies a run."""
    began = [step.record.started for step in run.steps if step.record]
    final = run.final_model()
    is_finished = all(step.state in ("done", "reused", "off") for step in run.steps if step.name != "report")
    digest = formats.short_digest(final.manifest.digest) if final else ""
    facts = [
        ("Preset", str(run.request.get("preset", ""))),
        ("Base model", base_model(run)),
        ("Seed", str(run.config.get("seed", 0))),
        ("Started", formats.when(min(began)) if began else ""),
        ("Took" if is_finished else "Took so far", formats.duration(total_seconds(run)) if began else ""),
        ("Final model" if is_finished else "Newest model", digest),
    ]
    return [(label, value) for label, value in facts if value]


def total_seconds(run: RunData) -> float:
    """From the first step's beginning to the last one's end, without the report's own step."""
    records = [step.record for step in run.steps if step.record and step.name != "report"]
    if not records:
        return 0.0
    return max(record.started + record.seconds for record in records) - min(record.started for record in records)


def base_model(run: RunData) -> str:
    """The base model in a few words: its name, shape and size."""
    shape = run.architecture
    artifact = run.step("prepare").artifact
    if not shape or artifact is None:
        return str(run.request.get("base", ""))
    name = "made from scratch" if "sources" in artifact.manifest.parents else str(run.request.get("base", ""))
    # Merging counts every tensor of the file; a base from elsewhere says its own size.
    sizes = [step.metrics.get("parameters") for step in run.steps if step.name.startswith(("prepare", "merge"))]
    parameters = next((formats.count(size) for size in sizes if size), "")
    words = [
        str(shape.get("model_type", "")),
        f"{shape['num_hidden_layers']} × {shape['hidden_size']}" if "num_hidden_layers" in shape else "",
        f"{parameters} parameters" if parameters else "",
        name,
    ]
    return ", ".join(filter(None, words))


def flow(run: RunData, sections: set[str]) -> list[FlowNode]:
    """The flow's boxes; a merge belongs to the stage before it."""
    nodes: list[FlowNode] = []
    for step in run.steps:
        if step.name.startswith("merge-") and nodes:
            nodes[-1] = replace(nodes[-1], merge=_node(step, set()))
        else:
            nodes.append(_node(step, sections))
    return nodes


def yaml_lines(text: str) -> list[tuple[str, str]]:
    """Each line of a YAML file as its key with what is before it, and the rest."""
    found = []
    for line in text.splitlines():
        match = re.match(r"(\s*(?:- )?[\w.-]+:)(?= |$)(.*)", line)
        found.append((match[1], match[2]) if match else ("", line))
    return found


def versions(run: RunData) -> list[tuple[str, str]]:
    """Library versions that the run's results were made with; several where they differ."""
    found: dict[str, list[str]] = {}
    for artifact in run.lineage:
        for package, version in artifact.manifest.versions.items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return [(package, ", ".join(values)) for package, values in sorted(found.items())]


def _node(step: StepData, sections: set[str]) -> FlowNode:
    anchor = step.name if step.name in sections else ""
    if step.name == "data" and step.artifacts:
        anchor = "data"
    if step.name == "report":  # whatever its record says, here it is
        return FlowNode("Report", "done", "this page", "", [])
    short = _SHORT.get(step.name, title(step.name))
    word = STATES["failed"] if step.problem else STATES[step.state]
    state = "failed" if error_of(step) else step.state
    rows = sum(artifact.manifest.metrics.get("rows", 0) for artifact in step.artifacts)
    return FlowNode(
        short,
        state,
        word,
        "" if step.state == "reused" else time_spent(step),
        results=final_comparisons(step.metrics)[:2] if step.name == "evaluate" else headlines(step),
        note=f"{formats.count(rows)} rows" if rows else "",
        anchor=anchor,
    )
