"""What the pipeline's components call: each function runs one step of a run and says where its result is."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.common.artifacts import find_manifest
from components.common.errors import RlhfError
from components.common.gate import check_result
from components.common.inputs import find_input
from components.common.logs import say
from components.common.manifest import Manifest
from components.common.stage import Plan, StageSpec, make_plan
from components.common.store import open_store
from components.launcher.inputs import missing_inputs, usable_inputs
from components.launcher.planned import (
    data_job,
    data_plans,
    job_of,
    launcher_config,
    plain_job,
    report_job,
    run_settings,
)
from components.launcher.record import Recorder, Run
from components.launcher.run import run_job, variable
from components.launcher.summary import headline
from components.prepare.resolve import Request, resolve


@dataclass(frozen=True)
class Finished:
    """A step's result.

    Attributes:
        uri: Its artifact, or what it passes on.
        metrics: What its manifest records.
        metadata: Kind, stage, key and digest, for a pipeline's artifact.
    """

    uri: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def register(self, artifact: Any, metrics: Any = None) -> str:
        """Fills a pipeline step's output artifacts, for lineage and for people.

        Kubeflow Pipelines wants an artifact below its own root, and fails a step whose output is elsewhere. So what it
        keeps there is a note that says where the result is; its metadata say the same.

        Args:
            artifact: A `dsl.Output`; nothing is copied.
            metrics: A `dsl.Output[dsl.Metrics]`.

        Returns:
            The URI, which is what later steps are given.
        """
        artifact.metadata.update({**self.metadata, "uri": self.uri})
        Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
        Path(artifact.path).write_text(f"{self.uri}\n", encoding="utf-8")
        for name, value in sorted(flat(self.metrics).items()) if metrics is not None else ():
            metrics.log_metric(name, value)
        return self.uri


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested metrics under dotted names."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            found[f"{prefix}{name}"] = float(value)
    return found


def prepare(**parameters: Any) -> tuple[str, str]:
    """Resolves a run's configuration and brings its base model into the store.

    Args:
        parameters: The pipeline's parameters.

    Returns:
        URI of the resolved configuration and URI of the base model.
    """
    run = Run(open_store(variable("RLHF_STORE")), variable("RLHF_RUN_ID"))
    with run.recording("prepare", "prepare") as recorder:
        launcher = resolve(Request(**parameters)).launcher
        arguments = [f"--{name}={value}" for name, value in parameters.items()]
        arguments = ["--output", run.store.root, "--run-id", run.run_id, *arguments]
        run_job(plain_job(run, "prepare", arguments, launcher))
        base = str(run_settings(run)["model"]["source"])
        recorder.close("done", uri=base)
        say("prepare", f"✓ {_duration(recorder)}")
    return run.config_uri, base


def data(config: str, model: str) -> dict[str, str]:
    """Makes the dataset of every stage that is on.

    Returns:
        URI of each stage's dataset by the stage's name; empty for a stage that is off.
    """
    from components.data.config import SPECS

    run = Run.of_config(config)
    settings = run_settings(run)
    with run.recording("data", "data") as recorder:
        plans = data_plans(run, settings, model)
        reused = all(plan.finished() for plan in plans.values())
        if not reused:
            run_job(data_job(run, plans, model, launcher_config(settings)))
        uris: dict[str, str] = {task: plan.uri for task, plan in plans.items()}
        recorder.close("reused" if reused else "done", uri=" ".join(uris.values()))
        say("data", f"✓ {_duration(recorder)}")
    return {task: uris.get(task, "") for task in SPECS}


def stage(name: str, config: str, inputs: Mapping[str, str]) -> Finished:
    """Runs a stage, unless its result is already there or the configuration switches it off.

    Args:
        name: The stage.
        config: URI of the run's configuration.
        inputs: URI of each input; an empty one is left out.
    """
    run = Run.of_config(config)
    settings = run_settings(run)
    with run.recording(name, name) as recorder:
        if not settings[name].get("enabled", True):
            recorder.close("off", uri=inputs["model"])
            say(name, "✓ off")
            return Finished(inputs["model"])
        # Not an edge of the pipeline: it comes from outside the run, and its digest is part of the key as any input's.
        adapter = settings[name].get("adapter") or ""
        return _run(name, name, run, settings, {**inputs, "adapter": adapter} if adapter else inputs, recorder)


def merge(config: str, base: str, adapter: str, of: str) -> Finished:
    """Merges a stage's adapter into its base; what is no adapter (of a stage that is off, a full model) passes through.

    Args:
        config: URI of the run's configuration.
        base: URI of the model the adapter was trained on.
        adapter: URI of the stage's result.
        of: Name of the stage.
    """
    run = Run.of_config(config)
    step = f"merge-{of}"
    with run.recording(step, "merge") as recorder:
        if adapter == base or find_input("adapter", adapter, ("adapter", "model")).kind == "model":
            recorder.close("off", uri=adapter)
            say(step, "✓ nothing to merge")
            return Finished(adapter)
        return _run("merge", step, run, run_settings(run), {"base": base, "adapter": adapter}, recorder)


def report(config: str, page: str = "") -> str:
    """Writes the run's report.

    Args:
        config: URI of the run's configuration.
        page: Local path for a copy, where a pipeline's UI looks for it.

    Returns:
        Where it is.
    """
    run = Run.of_config(config)
    with run.recording("report", "report") as recorder:
        run_job(report_job(run, launcher_config(run_settings(run))))
        uri = f"{run.store.root}/runs/{run.run_id}/report/index.html"
        if page:
            Path(page).parent.mkdir(parents=True, exist_ok=True)
            Path(page).write_bytes(run.store.read(f"runs/{run.run_id}/report/index.html"))
        recorder.close("done", uri=uri)
        say("report", f"✓ {uri}")
    return uri


def _run(
    name: str, step: str, run: Run, settings: dict[str, Any], inputs: Mapping[str, str], recorder: Recorder
) -> Finished:
    spec: StageSpec[Any] = importlib.import_module(f"components.{name}.config").SPEC
    given = usable_inputs(spec, inputs)
    missing = missing_inputs(spec, given)
    if missing:  # prepare sees to it that only evaluate can be without
        recorder.close("off", uri=inputs.get("model", ""))
        say(step, f"✓ off: no {', '.join(missing)}")
        return Finished(inputs.get("model", ""))
    plan = make_plan(spec, settings, run.config_uri, given, run.store.root)
    manifest = plan.finished()
    made_path = f"work/{plan.spec.name}/{plan.key}/made.json"
    if manifest is not None:
        check_result(plan, manifest.metrics)
        made = json.loads(run.store.read(made_path)) if run.store.exists(made_path) else {}
        recorder.close("reused", uri=plan.uri, made_in=made.get("seconds", 0.0))
        say(step, f"✓ reused: {headline(name, manifest.metrics)}")
        return _finished(plan, manifest)
    began = time.time()
    run_job(job_of(run, plan, given, launcher_config(settings), step))
    manifest = find_manifest(plan.store, plan.prefix)
    if manifest is None:
        raise RlhfError(f"ended well, but there is no result at {plan.uri}", where=step, hint="run the same again")
    run.store.write(made_path, json.dumps({"seconds": round(time.time() - began, 3), "run": run.run_id}).encode())
    recorder.close("done", uri=plan.uri)
    say(step, f"✓ {_duration(recorder)} {headline(name, manifest.metrics)}")
    return _finished(plan, manifest)


def _finished(plan: Plan[Any], manifest: Manifest) -> Finished:
    metadata = {"kind": manifest.kind, "stage": manifest.stage, "key": manifest.key, "digest": manifest.digest}
    return Finished(plan.uri, manifest.metrics, metadata)


def _duration(recorder: Recorder) -> str:
    return f"{recorder.record.seconds:.1f} s"
