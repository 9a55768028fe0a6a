"""`rlhf logs`: what a run's steps print, from the pods while they are there, from the store afterwards."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from components.common.directory_store import DirectoryStore
from components.common.errors import RetryableError, UserError
from components.launcher.record import Run
from pipelines.cli.errors import reported
from pipelines.cli.options import HELP_NAMES
from pipelines.cli.runs import Found, found_run, options

if TYPE_CHECKING:
    from components.launcher.cluster import Cluster, Object
    from components.launcher.pod_logs import PodLog

POLL_SECONDS = 0.5
LIST_SECONDS = 30.0
READ_SECONDS = 60.0  # for a log that is there


@click.command("logs", context_settings=HELP_NAMES)
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
        from components.launcher.run_objects import KFP_CONTAINER

        own = _step_pod(found.pipelines, found.run.run_id, step) if first is None and found.pipelines else None
        if own is not None and found.pipelines is not None:
            _show_pod(found.pipelines, own, follow, tail, KFP_CONTAINER)
        else:
            _show(lines if first is None else chain([first], lines), tail)


def _last_step(run: Run) -> str:
    steps = run.steps()
    if not steps:
        raise UserError("no step has begun", where=run.run_id, hint="see `rlhf status`")
    return steps[-1].step


def _pod(cluster: Cluster, run: str, step: str, rank: int) -> Object | None:
    """The pod with a rank of a step's job, if it is there."""
    from components.launcher.job import STEP
    from components.launcher.run_objects import is_owned, jobs_of, pods_of

    uids = {
        item["metadata"]["uid"]
        for _, item in jobs_of(cluster, run)
        if item["metadata"].get("annotations", {}).get(STEP) == step
    }
    pods = [pod for pod in pods_of(cluster, run) if is_owned(pod, uids)]
    pods.sort(key=lambda pod: _node_rank(pod["metadata"]["name"]))
    return pods[rank] if rank < len(pods) else None


def _step_pod(cluster: Cluster, run: str, step: str) -> Object | None:
    """The newest pod in which Kubeflow Pipelines runs a step: the one that does its work, where it makes no job."""
    from components.launcher.run_objects import step_pods_of

    return next(reversed(step_pods_of(cluster, run, step)), None)


def _node_rank(name: str) -> int:
    """Number of a pod among its job's: `…-master-0` is 0, `…-worker-0` is 1."""
    *_, role, index = ["", *name.rsplit("-", 2)]
    return int(index) + 1 if role == "worker" and index.isdigit() else 0


def _show_pod(cluster: Cluster, pod: Object, follow: bool, tail: int | None, container: str = "") -> None:
    from components.launcher.cluster import PODS
    from components.launcher.log_lines import SeenLines
    from components.launcher.pod import CONTAINER
    from components.launcher.pod_logs import PodLog
    from components.launcher.watch import Watched

    changed = threading.Condition()
    pods = Watched(cluster, PODS, changed, fields=f"metadata.name={pod['metadata']['name']}")
    pods.start()
    pods.wait_until_listed(LIST_SECONDS)
    uid, seen = pod["metadata"]["uid"], SeenLines()

    def reader(take: Callable[[str], None]) -> PodLog:
        return PodLog(
            cluster, lambda: pods.find(uid), changed, lambda line: take(line.text), lambda: seen, container or CONTAINER
        )

    if pods.find(uid) is None:
        return
    if tail is not None or not follow:
        before: deque[str] = deque(maxlen=tail)
        _read_to_now(reader(before.append), pod)
        _show(before, None)
    if follow and pods.find(uid) is not None:
        log = reader(click.echo)
        log.start()
        while log.is_alive():
            log.join(POLL_SECONDS)
            pods.objects()  # raises what keeps the log from being told that its pod has ended


def _read_to_now(log: PodLog, pod: Object) -> None:
    """Reads what a pod has written so far. When this returns, nobody adds to it any more."""
    log.start()
    log.finish(READ_SECONDS)
    if log.is_alive():
        raise RetryableError(
            f"its log has not come in {READ_SECONDS:.0f} s", where=pod["metadata"]["name"], hint="run the same again"
        )


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
        growing = _Growing(file, stage)
        _show(growing.lines(), tail)
        while follow:
            follow = _goes_on(found.run, stage)  # asked before the last look at the file
            time.sleep(POLL_SECONDS)
            _show(growing.lines(), None)


class _Growing:
    """A file that somebody else writes to, line by line.

    Args:
        file: The file.
        stage: The step whose lines are wanted; None: all.
    """

    def __init__(self, file: TextIO, stage: str | None) -> None:
        self._file, self._stage = file, stage
        self._begun = ""

    def lines(self) -> Iterator[str]:
        """The lines that were written since the last call; one that is being written comes with the next."""
        for piece in self._file:
            self._begun += piece
            if self._begun.endswith("\n"):
                line, self._begun = self._begun.rstrip("\n"), ""
                if _is_of(line, self._stage):
                    yield line


def _goes_on(run: Run, step: str | None) -> bool:
    """Whether a run of this machine, or a step of it, will say more.

    A driver that was killed leaves its step's record as it was, so that the record alone does not tell.
    """
    place = run.place()
    if place is None or not place.is_alive():
        return False
    states = {record.step: record.state for record in run.steps()}
    if step in states:
        return states[step] == "running"
    # Between two steps none runs. What goes on on another machine, which shares the folder, only the records tell.
    return place.is_here or "running" in states.values()


def _is_of(line: str, stage: str | None) -> bool:
    return stage is None or line.startswith(f"{stage} ")


def _show(lines: Iterable[str], tail: int | None) -> None:
    for line in lines if tail is None else deque(lines, maxlen=tail):
        click.echo(line)
    sys.stdout.flush()
