"""`rlhf status`: the steps of a run, and what the cluster says of those that run there."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
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

_OVER = ("Succeeded", "Failed", "Error")  # Argo's words for a workflow that has ended


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


@dataclass(frozen=True)
class WorkflowView:
    """What Argo says of a run of Kubeflow Pipelines.

    Attributes:
        phase: Its own word; `gone` where the workflow is.
        is_over: Whether no step of it goes on.
        ended: When it ended, in seconds since 1970; 0: not yet, or nobody knows.
    """

    phase: str
    is_over: bool
    ended: float = 0.0


def status_lines(found: Found) -> list[str]:
    """What `rlhf status` prints."""
    run, records = found.run, {record.step: record for record in found.run.steps()}
    jobs = {job.step: job for job in _jobs(found.cluster, run.run_id)} if found.cluster else {}
    workflow = _workflow(found)
    lines = [f"run {run.run_id} in {run.store.root}{_driven(found, workflow)}"]
    steps = [*flow_steps(_pipeline(run)), *(name for name in records if name not in flow_steps(_pipeline(run)))]
    for step in steps:
        record, job = records.get(step), jobs.get(step)
        state = _state(record, found.place, job, workflow)
        time_taken = _duration(record, state, workflow)
        lines.append(f"{step:<15} {state:<9} {time_taken:>8}  {job.name if job else ''}".rstrip())
        lines += [f"{'':<15} {job.state}", *(f"{'':<15} {pod}" for pod in job.pods)] if job else []
        lines += [f"{'':<15} {pod}" for pod in _step_pods(found, step)] if workflow and not record else []
        if record and record.state == "failed":
            lines.append(f"{'':<15} {error_from_dict(record.error)}")
    return lines


def _driven(found: Found, workflow: WorkflowView | None) -> str:
    marks = []
    if found.cluster is not None:
        marks.append(f"namespace {found.cluster.namespace}")
    if found.place is not None:
        marks.append(f"driven from {found.place.host}")
    if workflow is not None:
        marks.append(f"workflow {workflow.phase}")
    if found.run.is_cancelled():
        marks.append("cancelled")
    return f" ({', '.join(marks)})" if marks else ""


def _state(record: StepRecord | None, place: Place | None, job: JobView | None, workflow: WorkflowView | None) -> str:
    """A step's state. What ends a step's process may leave it no time to say so, and its record as it was."""
    if record is None:
        return "waiting"
    if record.state == "running" and job is None and (_is_gone(place) or (workflow and workflow.is_over)):
        return "stopped"
    return record.state


def _is_gone(place: Place | None) -> bool:
    return place is not None and not place.is_alive()


def _duration(record: StepRecord | None, state: str, workflow: WorkflowView | None) -> str:
    if record is None:
        return ""
    if state == "stopped":
        seconds = workflow.ended - record.started if workflow and workflow.ended else 0.0
        if seconds <= 0:
            return ""  # nobody knows
    else:
        seconds = time.time() - record.started if state == "running" else record.seconds
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _pipeline(run: Run) -> str:
    path = f"runs/{run.run_id}/request.json"
    if not run.store.exists(path):
        return DEFAULT_FLOW
    return str(json.loads(run.store.read(path)).get("pipeline", DEFAULT_FLOW))


def _workflow(found: Found) -> WorkflowView | None:
    """The workflow of a run of Kubeflow Pipelines; None for other runs, and where we may not see any."""
    from components.launcher.run_objects import workflows_of

    if found.place is not None or found.pipelines is None:
        return None
    workflows = workflows_of(found.pipelines, found.run.run_id)
    if not workflows:
        return None if workflows is None else WorkflowView("gone", is_over=True)
    state = workflows[0].get("status") or {}
    ended = state.get("finishedAt")
    seconds = datetime.fromisoformat(ended).timestamp() if ended else 0.0
    return WorkflowView(state.get("phase") or "Pending", state.get("phase") in _OVER, seconds)


def _step_pods(found: Found, step: str) -> list[str]:
    """The pod of a step that has recorded nothing yet: it may wait for its image, or for a node."""
    from components.launcher.run_objects import KFP_CONTAINER, step_pods_of

    pods = step_pods_of(found.pipelines, found.run.run_id, step) if found.pipelines else []
    return [_pod_line(pod, KFP_CONTAINER) for pod in pods[-1:]]


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


def _pod_line(pod: Object, container: str = "") -> str:
    from components.launcher.pod import CONTAINER
    from components.launcher.reasons import waiting_reason

    state = pod.get("status", {})
    node = pod["spec"].get("nodeName")
    restarts = sum(status["restartCount"] for status in state.get("containerStatuses", []))
    parts = [f"pod {pod['metadata']['name']} {state.get('phase', 'Pending')}"]
    parts += [f"on {node}"] if node else []
    parts += [f"{restarts} restarts"] if restarts else []
    waiting = waiting_reason([pod], container or CONTAINER)
    return " ".join(parts) + (f": {waiting}" if waiting else "")
