"""The job of a step whose inputs are known."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from components.common.config import load_yaml
from components.common.errors import UserError
from components.common.stage import EXPECTED_KEY, Plan, StageSpec, make_plan
from components.launcher.config import LauncherConfig
from components.launcher.inputs import usable_inputs
from components.launcher.job import StageJob, stage_job
from components.launcher.record import Run
from components.launcher.run import runs_on_cluster


def job_of(run: Run, plan: Plan[Any], inputs: Mapping[str, str], config: LauncherConfig, step: str = "") -> StageJob:
    """A stage as a job.

    Args:
        run: The run that it belongs to.
        plan: The stage with its key and the place of its result.
        inputs: URI of each input by name.
        config: The run's section `launcher`.
        step: The step's name, if that is not the stage's.
    """
    stage = plan.spec.name
    arguments = ["--config", run.config_uri, "--output", plan.uri]
    for name, uri in inputs.items():
        arguments += ["--input", f"{name}={uri}"]
    job = stage_job(
        run.run_id,
        stage,
        plan.key,
        arguments,
        run.store.root,
        config,
        cluster=runs_on_cluster(stage),
        step=step,
        output=plan.uri,
        reads=[f"runs/{run.run_id}", *inputs.values()],
        # Of the work, that of all runs of the key: their checkpoints go when the result is there, which is theirs too.
        writes=[f"artifacts/{stage}/{plan.key}", f"work/{stage}/{plan.key}"],
    )
    return replace(job, environment={EXPECTED_KEY: plan.key})


def planned_job(stage: str, config: str, inputs: Mapping[str, str]) -> StageJob:
    """The job that a step of a run would be; nothing is run, and its result may be there.

    Args:
        stage: The stage.
        config: URI of the run's configuration.
        inputs: URI of each input by name.
    """
    run = Run.of_config(config)
    settings = run_settings(run)
    if stage == "report":
        return report_job(run, launcher_config(settings))
    if stage == "data":
        model = needed_input(inputs, "model")
        return data_job(run, data_plans(run, settings, model), model, launcher_config(settings))
    spec: StageSpec[Any] = importlib.import_module(f"components.{stage}.config").SPEC
    given = usable_inputs(spec, inputs)
    plan = make_plan(spec, settings, run.config_uri, given, run.store.root)
    return job_of(run, plan, given, launcher_config(settings))


def needed_input(inputs: Mapping[str, str], name: str) -> str:
    """The URI of an input.

    Raises:
        UserError: It is not given.
    """
    if name not in inputs:
        raise UserError("is missing", where=f"--input {name}", hint=f"--input {name}=URI")
    return inputs[name]


def data_plans(run: Run, settings: Mapping[str, Any], model: str) -> dict[str, Plan[Any]]:
    """Plans the dataset of every stage that is on, by the stage's name."""
    from components.data.config import DataConfig, spec_of, wanted_parts
    from components.data.sources import with_digests

    wanted = [task for task in wanted_parts(settings) if settings["data"][task]["sources"]]
    parts = {**settings, "data": {task: with_digests(settings["data"][task]) for task in wanted}}
    specs = {task: spec_of(task, getattr(DataConfig.model_validate(settings["data"]), task)) for task in wanted}
    return {task: make_plan(specs[task], parts, run.config_uri, {"model": model}, run.store.root) for task in wanted}


def data_job(run: Run, plans: Mapping[str, Plan[Any]], model: str, config: LauncherConfig) -> StageJob:
    """The step that makes these datasets; the last of them is its output."""
    arguments = ["--config", run.config_uri, "--output", run.store.root, "--input", f"model={model}"]
    arguments += [f"--task={task}" for task in plans]
    return plain_job(run, "data", arguments, config, output=next(reversed([plan.uri for plan in plans.values()]), ""))


def report_job(run: Run, config: LauncherConfig) -> StageJob:
    """The step that writes a run's report."""
    return plain_job(run, "report", ["--config", run.config_uri], config)


def plain_job(run: Run, name: str, arguments: list[str], config: LauncherConfig, *, output: str = "") -> StageJob:
    """A step that is no stage: it has no key of its own."""
    cluster = runs_on_cluster(name)
    return stage_job(run.run_id, name, "", arguments, run.store.root, config, cluster=cluster, output=output)


def launcher_config(settings: Mapping[str, Any]) -> LauncherConfig:
    """The section `launcher` of a run's configuration."""
    return LauncherConfig.model_validate(settings.get("launcher") or {})


def jobs_namespace(run: Run) -> str:
    """The namespace that a run's configuration wants its jobs in; empty: the launcher's own, or it is not known yet."""
    if not run.store.exists(f"runs/{run.run_id}/config.yaml"):
        return ""
    return launcher_config(run_settings(run)).namespace


def run_settings(run: Run) -> dict[str, Any]:
    """A run's resolved configuration."""
    path = f"runs/{run.run_id}/config.yaml"
    return load_yaml(run.store.read(path).decode(), f"{run.store.root}/{path}")
