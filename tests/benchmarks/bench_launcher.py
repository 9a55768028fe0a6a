"""What following a job costs, against the kubeflow-training SDK's wait_for_job_conditions and get_job_logs.

    python -m tests.benchmarks.bench_launcher [--runs 3] [--steps 40] [--output DIR]

The cluster is KUBECONFIG's: the one of tests/cluster, with its operator and the images `minio` and `python`. Each
contestant makes the same PyTorchJob of one pod, which writes a line with the time each half second, and hands the lines
on until the job has ended. The SDK asks for the job's conditions each 15 s unless it is told otherwise, so it has two
rows. Ours besides keeps the log in the store, and takes the job away.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.launcher.objects import to_object
from tests.benchmarks.harness import Figures, Table, take_turns, write_results
from tests.support.cluster import Cluster, Object
from tests.support.cluster_minio import running_minio
from tests.support.cluster_steps import Launcher, Steps
from tests.support.launch_step import step_of
from tests.support.lent import lend
from tests.support.namespaces import run_namespace

REGISTRY = os.environ.get("RLHF_TEST_REGISTRY", "localhost/rlhf-test")
POLLING = (15, 1)  # seconds: the SDK's own, and as often as is reasonable
PAUSE = 0.5  # seconds between two lines of the job
STEP = re.compile(r"sft step (\d+)/\d+ at ([\d.]+)")


def sdk(namespace: str, polling: int, body: Object) -> None:
    """Makes a job and follows it as users of the SDK do."""
    from kubeflow.training import TrainingClient

    client = TrainingClient(namespace=namespace, job_kind="PyTorchJob")
    client.custom_api.create_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs", body)
    name, begun = body["metadata"]["name"], {"Running", "Succeeded"}
    client.wait_for_job_conditions(name, expected_conditions=begun, polling_interval=polling)
    client.get_job_logs(name, follow=True)
    client.wait_for_job_conditions(name, polling_interval=polling)


def run_sdk(new_steps: Callable[[], Steps], polling: int, count: int, _: int = 0) -> Figures:
    """The SDK follows a job."""
    steps = new_steps()
    body = to_object(step_of(steps.fields(*_arguments(count))))
    command = ["-m", "tests.benchmarks.bench_launcher", "--child", json.dumps([steps.namespace, polling, body])]
    figures = _watched(steps, Launcher(command, {**steps.variables(), "PYTHONUNBUFFERED": "1"}), count)
    steps.cluster.custom.delete_namespaced_custom_object(
        "kubeflow.org", "v1", steps.namespace, "pytorchjobs", steps.name
    )
    steps.check_nothing_is_left()
    return figures


def run_ours(new_steps: Callable[[], Steps], count: int, _: int = 0) -> Figures:
    """Our launcher follows a job."""
    steps = new_steps()
    figures = _watched(steps, steps.launch(*_arguments(count)), count)
    steps.check_nothing_is_left()
    return figures


def _arguments(count: int) -> list[str]:
    return [f"--steps={count}", f"--pause={PAUSE}", "--stamp"]


def _watched(steps: Steps, process: Launcher, count: int) -> Figures:
    """Figures of a process that follows a job to its end."""
    ended = threading.Thread(target=_await_end, args=(steps, moment := []), daemon=True)
    process.wait_for(f"sft step 3/{count} ", 180)
    ended.start()
    pid, peak = process.process.pid, 0.0
    cpu, began = _cpu_seconds(pid), time.monotonic()
    # One that asks seldom has all lines at once, and then waits.
    while f"sft step {count - 2}/" not in process.text or time.monotonic() - began < 3:
        assert process.process.poll() is None, process.text
        peak = max(peak, _rss_mb(pid))
        time.sleep(0.5)
    share = (_cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    process.process.wait(timeout=120)
    finished = time.time()
    assert process.end() == 0, process.text
    ended.join(30)
    late = [came - float(found[2]) for came, line in process.lines if (found := STEP.search(line))]
    assert len(late) == count, process.text
    return {
        "first line s": late[0],
        "slowest later line s": max(late[1:]),
        "end s": max(0.0, finished - moment[0]),
        "RSS MB": peak,
        "% of a core": 100 * share,
    }


def _await_end(steps: Steps, moment: list[float]) -> None:
    """Notes when a job is first seen to have ended, or to be gone: a tenth of a second late at most."""
    while any(
        _runs(job) for job in steps.cluster.pytorchjobs(steps.namespace) if job["metadata"]["name"] == steps.name
    ):
        time.sleep(0.1)
    moment.append(time.time())


def _runs(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    return not any(found["type"] == "Succeeded" and found["status"] == "True" for found in conditions)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def compare(new_steps: Callable[[], Steps], runs: int, count: int) -> Table:
    """Lets the contestants take turns.

    Args:
        new_steps: Gives a step that was never run.
        runs: How often each runs.
        count: Lines that a job writes.
    """
    peers = {
        f"kubeflow-training, asks each {polling} s": functools.partial(run_sdk, new_steps, polling, count)
        for polling in POLLING
    }
    results = take_turns({**peers, "components.launcher": functools.partial(run_ours, new_steps, count)}, runs)
    return Table(
        "Following a PyTorchJob",
        results,
        plotted="end s",
        notes=[
            "From the writing of a line to its printing; from the job's end to that of the process; memory and CPU "
            "while the job runs."
        ],
    )


@contextmanager
def prepared(cluster: Cluster) -> Iterator[Callable[[], Steps]]:
    """A namespace and a bucket; gives what makes a step there."""
    lent = lend(f"{REGISTRY}/python:{sys.version_info[0]}.{sys.version_info[1]}")
    with running_minio(cluster, f"{REGISTRY}/minio:1", f"rlhf-bench-minio-{secrets.token_hex(3)}") as minio:
        bucket = minio.make_bucket()
        with run_namespace(cluster, "privileged", bucket.secret(), bucket.settings()) as namespace:
            yield lambda: Steps(cluster, namespace, bucket, lent)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="lines that a job writes, one each half second")
    parser.add_argument("--output", type=Path, help="folder for table, figures and plot")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sdk(*json.loads(arguments.child))
        return
    if not os.environ.get("KUBECONFIG"):
        raise SystemExit('no cluster: eval "$(tests/cluster/up --with-operator)" && tests/cluster/images minio python')
    with prepared(Cluster(os.environ["KUBECONFIG"])) as new_steps:
        table = compare(new_steps, arguments.runs, arguments.steps)
    write_results(arguments.output, "launcher", [table])


if __name__ == "__main__":
    main()
