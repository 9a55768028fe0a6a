"""`rlhf status`: the steps of a run, and what the cluster says of those that run there."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from components.common.errors import error_from_dict
from components.common.flows import DEFAULT_FLOW, flow_steps
from components.launcher.record import Place, Run, StepRecord
from pipelines.cli.errors import reported
from pipelines.cli.options import HELP_NAMES
from pipelines.cli.runs import Found, found_run, options

if TYPE_CHECKING:
    from components.launcher.cluster import Cluster, Object


@click.command("status", context_settings=HELP_NAMES)
@click.argument("run", required=False)
@options
def status(run: str | None, store: str | None, namespace: str) -> None:
    """Say how a run goes: its steps, how long each took, its jobs and pods, and why what failed did.

    RUN is the newest run of the store by default.
    """
    with reported(), found_run(run, store, namespace) as found:
        for line in status_lines(found):
            click.echo(line)


@dataclass(frozen=True)
class JobView:
    """A job as people want to see it."""

    step: str
    name: str
    state: str
    pods: tuple[str, ...]


def status_lines(found: Found) -> list[str]:
    """What `rlhf status` prints."""
    run, records = found.run, {record.step: record for record in found.run.steps()}
    jobs = {job.step: job for job in _jobs(found.cluster, run.run_id)} if found.cluster else {}
    lines = [f"run {run.run_id} in {run.store.root}{_driven(found)}"]
    steps = [*flow_steps(_pipeline(run)), *(name for name in records if name not in flow_steps(_pipeline(run)))]
    for step in steps:
        record, job = records.get(step), jobs.get(step)
        state = _state(record, found.place, job)
        lines.append(f"{step:<15} {state:<9} {_duration(record):>8}  {job.name if job else ''}".rstrip())
        lines += [f"{'':<15} {job.state}", *(f"{'':<15} {pod}" for pod in job.pods)] if job else []
        if record and record.state == "failed":
            lines.append(f"{'':<15} {error_from_dict(record.error)}")
    return lines


def _driven(found: Found) -> str:
    marks = []
    if found.cluster is not None:
        marks.append(f"namespace {found.cluster.namespace}")
    if found.place is not None:
        marks.append(f"driven from {found.place.host}")
    if found.run.is_cancelled():
        marks.append("cancelled")
    return f" ({', '.join(marks)})" if marks else ""


def _state(record: StepRecord | None, place: Place | None, job: JobView | None) -> str:
    if record is None:
        return "waiting"
    if record.state == "running" and job is None and place is not None and not place.is_alive():
        return "stopped"
    return record.state


def _duration(record: StepRecord | None) -> str:
    if record is None:
        return ""
    seconds = time.time() - record.started if record.state == "running" else record.seconds
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _pipeline(run: Run) -> str:
    path = f"runs/{run.run_id}/request.json"
    if not run.store.exists(path):
        return DEFAULT_FLOW
    return str(json.loads(run.store.read(path)).get("pipeline", DEFAULT_FLOW))


def _jobs(cluster: Cluster, run: str) -> list[JobView]:
    from components.launcher.job import STEP
    from components.launcher.run_objects import is_owned, jobs_of, pods_of

    pods = pods_of(cluster, run)
    views = []
    for _, item in jobs_of(cluster, run):
        own = [pod for pod in pods if is_owned(pod, [item["metadata"]["uid"]])]
        step = item["metadata"].get("annotations", {}).get(STEP, "")
        views.append(JobView(step, item["metadata"]["name"], _job_state(item), tuple(map(_pod_line, own))))
    return views


def _job_state(item: Object) -> str:
    from components.launcher.reasons import condition

    for kind in ("Failed", "Succeeded", "Complete", "Restarting", "Suspended", "Running", "Created"):
        found = condition(item, kind)
        if found:
            return f"{kind}: {found['message']}" if kind == "Failed" and found.get("message") else kind
    return "being created"


def _pod_line(pod: Object) -> str:
    from components.launcher.reasons import waiting_reason

    state = pod.get("status", {})
    node = pod["spec"].get("nodeName")
    restarts = sum(status["restartCount"] for status in state.get("containerStatuses", []))
    parts = [f"pod {pod['metadata']['name']} {state.get('phase', 'Pending')}"]
    parts += [f"on {node}"] if node else []
    parts += [f"{restarts} restarts"] if restarts else []
    waiting = waiting_reason([pod])
    return " ".join(parts) + (f": {waiting}" if waiting else "")
