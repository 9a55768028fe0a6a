"""Reads a run from the store: its steps, their artifacts and ancestors, curves and samples.

A run that failed or is still going is read as far as it got; only its configuration must be there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.common.artifacts import read_manifest
from components.common.config import load_yaml
from components.common.errors import InputError, UserError
from components.common.flows import DEFAULT_FLOW, TRAINING_STAGES, flow_steps
from components.common.inputs import split_uri
from components.common.manifest import Manifest
from components.common.store import Store
from components.launcher.record import Run, StepRecord

CURVES, SAMPLES = "metrics.jsonl", "samples.jsonl"

Point = tuple[float, float]
Curves = Mapping[str, tuple[Point, ...]]
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class ArtifactData:
    """An artifact with what of it can be shown.

    Attributes:
        uri: As the run's record names it; an ancestor's is below this store's root.
        prefix: Its folder below the store's root.
        manifest: Its manifest.
        step: The step of this run that made or used it as its result; empty for an ancestor of other origin.
        curves: Points (step, value) by metric.
        samples: Rows of samples.jsonl.
    """

    uri: str
    prefix: str
    manifest: Manifest
    step: str = ""
    curves: Curves = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class StepData:
    """A step of the run.

    Attributes:
        name: Name of the step.
        record: What the launcher recorded, None if it has not begun.
        artifacts: Its results.
        curves: Of its results; of its work so far where there is no result.
        problem: Why a result cannot be read.
    """

    name: str
    record: StepRecord | None = None
    artifacts: tuple[ArtifactData, ...] = ()
    curves: Curves = field(default_factory=dict)
    problem: str = ""

    @property
    def state(self) -> str:
        """The recorded state, or `pending`."""
        return self.record.state if self.record else "pending"

    @property
    def artifact(self) -> ArtifactData | None:
        """Its only result."""
        return self.artifacts[0] if self.artifacts else None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What its result's manifest records."""
        return self.artifact.manifest.metrics if self.artifact else {}

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Its result's samples."""
        return self.artifact.samples if self.artifact else ()


@dataclass(frozen=True)
class RunData:
    """All that the report shows.

    Attributes:
        run_id: Name of the run.
        config_uri: Where its configuration is.
        config: The resolved configuration.
        config_text: The same as the file has it.
        request: What was asked for (`runs/<id>/request.json`); empty for steps run by hand.
        steps: In the pipeline's order.
        lineage: Every artifact of the run and its ancestors, parents before children.
        architecture: The base model's config.json.
    """

    run_id: str
    config_uri: str
    config: Mapping[str, Any]
    config_text: str
    request: Mapping[str, Any]
    steps: tuple[StepData, ...]
    lineage: tuple[ArtifactData, ...]
    architecture: Mapping[str, Any]

    def step(self, name: str) -> StepData:
        """A step by name, begun or not."""
        return next((step for step in self.steps if step.name == name), StepData(name))

    @property
    def training(self) -> tuple[StepData, ...]:
        """The steps that train, begun or not, in the pipeline's order."""
        return tuple(step for step in self.steps if step.name in TRAINING_STAGES)

    def final_model(self) -> ArtifactData | None:
        """The newest model that the run trained, if it got as far as one."""
        made = [a for step in self.steps for a in step.artifacts if step.name != "prepare"]
        return next((artifact for artifact in reversed(made) if artifact.manifest.kind == "model"), None)


def collect(config_uri: str) -> RunData:
    """Reads a run.

    Args:
        config_uri: `<store>/runs/<run id>/config.yaml`.

    Raises:
        UserError: The URI is not that of a run's configuration.
        InputError: There is no such run.
    """
    if not re.search(r"(^|/)runs/[^/]+/config\.yaml$", config_uri):
        raise UserError(
            "is not the configuration of a run", where=config_uri, hint="give <store>/runs/<run id>/config.yaml"
        )
    run = Run.of_config(f"./{config_uri}" if config_uri.startswith("runs/") else config_uri)
    store = run.store
    text = store.read(f"runs/{run.run_id}/config.yaml").decode()
    request = _json(store, f"runs/{run.run_id}/request.json")
    flow = flow_steps(request.get("pipeline", DEFAULT_FLOW))
    steps = tuple(_read_step(run, step) for step in _in_order(run.steps(), flow))
    base = next((artifact for step in steps if step.name == "prepare" for artifact in step.artifacts), None)
    return RunData(
        run_id=run.run_id,
        config_uri=run.config_uri,
        config=load_yaml(text, run.config_uri),
        config_text=text,
        request=request,
        steps=steps,
        lineage=_lineage(store, [artifact for step in steps for artifact in step.artifacts]),
        architecture=_json(store, f"{base.prefix}/config.json") if base else {},
    )


def artifact_uris(recorded: str) -> list[str]:
    """The artifacts that a record's `uri` names: the data step has several, with spaces between."""
    return re.findall(r"\S.*?/artifacts/[^/\s]+/[^/\s]+", recorded)


def parse_curves(text: str) -> Curves:
    """Points by metric from metrics.jsonl; a last line without its end is still being written and left out."""
    curves: dict[str, list[Point]] = {}
    for line in text[: text.rfind("\n") + 1].splitlines():
        values = json.loads(line)
        step = float(values.pop("step"))
        for name, value in values.items():
            if math.isfinite(value):
                curves.setdefault(name, []).append((step, float(value)))
    return {name: tuple(points) for name, points in curves.items()}


def _in_order(records: Iterable[StepRecord], flow: Sequence[str]) -> list[StepData]:
    """Recorded steps, with those of our pipeline that are still to come; another pipeline's as they began."""
    recorded = {record.step: record for record in records}
    names = flow if set(recorded) <= set(flow) else tuple(recorded)
    return [StepData(name, recorded.get(name)) for name in names]


def _read_step(run: Run, step: StepData) -> StepData:
    record = step.record
    if record is None or record.state == "off" or step.name == "report":
        return step
    if record.state not in ("done", "reused"):
        return StepData(step.name, record, curves=_work_curves(run, record.stage))
    try:
        artifacts = tuple(_read_artifact(run.store, uri, step.name) for uri in artifact_uris(record.uri))
    except InputError as error:
        return StepData(step.name, record, problem=str(error))
    return StepData(step.name, record, artifacts, artifacts[0].curves if artifacts else {})


def _read_artifact(store: Store, uri: str, step: str = "") -> ArtifactData:
    # By its place below the root: a store that was moved or is mounted elsewhere still has it there.
    prefix = split_uri(uri)[1]
    manifest = read_manifest(store, prefix)
    files = {entry.path for entry in manifest.files}
    curves = parse_curves(store.read(f"{prefix}/{CURVES}").decode()) if CURVES in files else {}
    lines = store.read(f"{prefix}/{SAMPLES}").decode().splitlines() if SAMPLES in files else []
    return ArtifactData(uri, prefix, manifest, step, curves, tuple(json.loads(line) for line in lines))


def _work_curves(run: Run, stage: str) -> Curves:
    """Curves of a stage without a result, as far as this run's work has got."""
    wanted = f"/{run.run_id}/{CURVES}"
    paths = [path for path in run.store.files(f"work/{stage}") if path.endswith(wanted)]
    return parse_curves(run.store.read(paths[-1]).decode()) if paths else {}


def _lineage(store: Store, artifacts: list[ArtifactData]) -> tuple[ArtifactData, ...]:
    found: dict[str, ArtifactData] = {}
    given = {artifact.prefix: artifact for artifact in artifacts}

    def visit(artifact: ArtifactData) -> None:
        for parent in artifact.manifest.parents.values():
            prefix = split_uri(parent.uri)[1]
            if not prefix or prefix in found:
                continue
            try:
                visit(given.get(prefix) or _read_artifact(store, f"{store.root}/{prefix}"))
            except InputError:  # removed since: its child's manifest still names it
                continue
        found[artifact.prefix] = artifact

    for artifact in artifacts:
        if artifact.prefix not in found:
            visit(artifact)
    return tuple(found.values())


def _json(store: Store, path: str) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = json.loads(store.read(path)) if store.exists(path) else {}
    return fields
