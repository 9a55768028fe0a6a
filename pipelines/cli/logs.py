"""`rlhf logs`: what a run's steps print, from the pods while they are there, from the store afterwards."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from components.common.errors import UserError
from components.common.store import DirectoryStore
from components.launcher.record import Run
from pipelines.cli.errors import reported
from pipelines.cli.runs import Found, found_run, options

if TYPE_CHECKING:
    from components.launcher.cluster import Cluster, Object

POLL_SECONDS = 0.5


@click.command("logs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("stage", required=False)
@click.option("--run", "run_id", help="The run; the newest of the store by default.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the step ends.")
@click.option("--rank", type=click.IntRange(min=0), default=0, show_default=True, help="Of several pods, which.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the so many last lines; with -f, before what is new.")
@options
def logs(
    stage: str | None,
    run_id: str | None,
    follow: bool,
    rank: int,
    tail: int | None,
    store: str | None,
    namespace: str,
) -> None:
    """Show what the steps of a run print.

    STAGE is a step, such as sft or merge-sft; by default the one that runs, or ran last.
    """
    with reported(), found_run(run_id, store, namespace) as found:
        step = stage or _last_step(found.run)
        if found.cluster is None:
            _show_local(found, stage, follow, tail)
            return
        pod = _pod(found.cluster, found.run.run_id, step, rank)
        if pod is not None:
            _show_pod(found.cluster, pod, follow, tail)
            return
        lines = _stored(found.run, step, rank)
        first = next(lines, None)
        own = _step_pod(found.pipelines, found.run.run_id, step) if first is None and found.pipelines else None
        if own is not None and found.pipelines is not None:
            _show_pod(found.pipelines, own, follow, tail, "main")
        else:
            _show(lines if first is None else chain([first], lines), tail)


def _last_step(run: Run) -> str:
    steps = run.steps()
    if not steps:
        raise UserError("no step has begun", where=run.run_id, hint="see `rlhf status`")
    return steps[-1].step


def _pod(cluster: Cluster, run: str, step: str, rank: int) -> Object | None:
    """The pod with a rank of a step's job, if it is there."""
    from components.launcher.cancel import jobs_of
    from components.launcher.cluster import PODS
    from components.launcher.job import LABEL_RUN, STEP

    uids = {
        item["metadata"]["uid"]
        for _, item in jobs_of(cluster, run)
        if item["metadata"].get("annotations", {}).get(STEP) == step
    }
    pods = [
        pod
        for pod in cluster.list(PODS, {LABEL_RUN: run})
        if any(owner["uid"] in uids for owner in pod["metadata"].get("ownerReferences", []))
    ]
    pods.sort(key=lambda pod: _node_rank(pod["metadata"]["name"]))
    return pods[rank] if rank < len(pods) else None


def _step_pod(cluster: Cluster, run: str, step: str) -> Object | None:
    """The newest pod in which Kubeflow Pipelines runs a step: the one that does its work, where it makes no job."""
    from components.launcher.cluster import PODS
    from components.launcher.job import STEP

    pods = cluster.list(PODS, {"pipeline/runid": run, STEP: step})
    return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def _node_rank(name: str) -> int:
    """Number of a pod among its job's: `…-master-0` is 0, `…-worker-0` is 1."""
    *_, role, index = ["", *name.rsplit("-", 2)]
    return int(index) + 1 if role == "worker" and index.isdigit() else 0


def _show_pod(cluster: Cluster, pod: Object, follow: bool, tail: int | None, container: str = "") -> None:
    from components.launcher.cluster import PODS
    from components.launcher.log_lines import Line, SeenLines
    from components.launcher.pod import CONTAINER
    from components.launcher.pod_logs import PodLog
    from components.launcher.watch import Watched

    changed = threading.Condition()
    pods = Watched(cluster, PODS, changed, fields=f"metadata.name={pod['metadata']['name']}")
    pods.start()
    with changed:
        changed.wait_for(lambda: pods.listed, 30)
    uid = pod["metadata"]["uid"]
    before: deque[str] = deque(maxlen=tail)
    live = threading.Event()

    def take(line: Line) -> None:
        if live.is_set() or (tail is None and follow):
            click.echo(line.text)
        else:
            before.append(line.text)

    if pods.find(uid) is None:
        return
    log = PodLog(cluster, lambda: pods.find(uid), changed, take, SeenLines(), container or CONTAINER)
    log.start()
    if not follow:
        log.finish(60)
    elif tail is not None:
        time.sleep(1.0)  # what was there before has been read by then
    _show(before, None)
    live.set()
    log.join()


def _stored(run: Run, step: str, rank: int) -> Iterator[str]:
    """Lines that a launcher has stored of a step's pods."""
    from components.launcher.log_store import read_log, stored_logs

    record = run.step(step)
    stage = record.stage if record else step.partition("-")[0]
    folders = {path.rpartition("/")[0] for path in run.store.files(f"work/{stage}") if f"/{run.run_id}/logs/" in path}
    if record and record.uri and len(folders) > 1:  # a run has several merges
        folders = {folder for folder in folders if f"/{record.uri.rsplit('/', 1)[-1]}/" in folder}
    for folder in sorted(folders):
        pods = stored_logs(run.store, folder)
        for name in sorted(pods):
            if _node_rank(name.partition(".")[0]) == rank:
                yield from (line.text for line in read_log(run.store, pods[name]))


def _show_local(found: Found, stage: str | None, follow: bool, tail: int | None) -> None:
    """Shows the lines of a run of this machine, which all go to one file."""
    if not isinstance(found.run.store, DirectoryStore):
        raise UserError("its log is where it runs", where=found.run.run_id, hint="give --namespace")
    path = Path(found.run.store.root) / "runs" / found.run.run_id / "run.log"
    if not path.is_file():
        raise UserError("has no log yet", where=str(path), hint="see `rlhf status`")
    with path.open(encoding="utf-8", errors="replace") as file:
        _show((line.rstrip("\n") for line in file if _is_of(line, stage)), tail)
        while follow and any(record.state == "running" for record in found.run.steps()):
            for line in file:
                if _is_of(line, stage):
                    click.echo(line.rstrip("\n"))
            time.sleep(POLL_SECONDS)


def _is_of(line: str, stage: str | None) -> bool:
    return stage is None or line.startswith(f"{stage} ")


def _show(lines: Iterable[str], tail: int | None) -> None:
    for line in lines if tail is None else deque(lines, maxlen=tail):
        click.echo(line)
    sys.stdout.flush()
