"""`rlhf logs`: of pods, of the store, of a local run's file; followed from step to step, to the last line."""

import dataclasses
import threading
import time
from pathlib import Path

import click
import pytest

from components.launcher.log_lines import Line
from components.launcher.log_store import StoredLog
from components.launcher.record import Place, StepRecord
from pipelines.cli import driver, logs
from tests.support.commands import invoke_rlhf as rlhf
from tests.support.fake_operator import FakeOperator

pytest_plugins = ("tests.support.run_fixtures",)
pytestmark = pytest.mark.usefixtures("nothing_named")


class Following(threading.Thread):
    """`rlhf logs -f` beside the test."""

    def __init__(self, *arguments):
        super().__init__(daemon=True)
        self.arguments, self.output = arguments, None
        self.start()

    def run(self):
        self.output = rlhf("logs", "-f", *self.arguments).output

    def all(self):
        self.join(120)
        assert not self.is_alive(), "it does not end"
        return self.output.splitlines()


@pytest.fixture
def local(run, monkeypatch):
    """A run of this machine, which this process drives: adds text to its log."""
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.2)
    run.begin(Place.here("local"))
    path = Path(run.store.root) / "runs" / "r1" / "run.log"
    path.write_text("sft step 1/3\n")

    def write(text):
        with path.open("a") as file:
            file.write(text)

    return write


def test_logs_come_from_the_pod_and_afterwards_from_the_store(run, job, server):
    assert rlhf("logs", "sft", "--store", run.store.root).output == "sft step 1/3\nsft step 2/3\n"
    assert rlhf("logs", "sft", "--store", run.store.root, "--tail", "1").output == "sft step 2/3\n"
    server.drop("pytorchjobs", job.name)
    for name, text in ((f"{job.name}-master-0", "of rank 0"), (f"{job.name}-worker-0", "of rank 1")):
        stored = StoredLog(run.store, f"{job.work}/logs", f"{name}.abcd")
        stored.append(Line("2026-01-01T00:00:00.000000000Z", text))
        stored.flush()
    assert rlhf("logs", "sft", "--store", run.store.root).output == "of rank 0\n"
    assert rlhf("logs", "sft", "--rank", "1", "--store", run.store.root).output == "of rank 1\n"


def test_logs_of_a_step_without_a_job_come_from_its_pod_on_kubeflow_pipelines(on_pipelines, server):
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": {"RLHF_STORE": on_pipelines.store.root}})
    labels = {"pipeline/runid": "r1", "rlhf-stack/step": "merge-sft"}
    states = [{"name": "wait", "restartCount": 0}, {"name": "main", "restartCount": 0, "state": {"terminated": {}}}]
    status = {"phase": "Succeeded", "containerStatuses": states}
    server.put("pods", {"metadata": {"name": "w-1", "labels": labels}, "status": status})
    server.write_log("w-1", "merge-sft ✓ 0.4 s")
    result = rlhf("logs", "merge-sft", "--run", "r1", "-n", "kfp")
    assert result.output == "merge-sft ✓ 0.4 s\n"
    assert any("container=main" in line for line in server.requests)


def test_logs_of_a_local_run_are_in_its_file(run):
    run.begin(Place.here("local"))
    run.store.write("runs/r1/run.log", b"noise\nsft step 1/3\nrl step 1/3\n")
    assert rlhf("logs", "sft", "--store", run.store.root).output == "sft step 1/3\n"


def test_a_local_step_is_followed_to_its_last_line(run, local):
    following = Following("sft", "--store", run.store.root)
    time.sleep(0.5)
    local("sft step 2/3\nrl step 1/9\nsft st")
    time.sleep(0.5)
    local("ep 3/3\n")
    run.write(StepRecord("sft", "sft", "done", time.time(), 1.0))
    local("sft ✓ 1.0 s\n")
    assert following.all() == ["sft step 1/3", "sft step 2/3", "sft step 3/3", "sft ✓ 1.0 s"]


def test_a_local_run_is_followed_from_step_to_step_until_its_driver_has_ended(run, local):
    run.write(StepRecord("sft", "sft", "done", time.time(), 1.0))
    following = Following("--store", run.store.root)
    time.sleep(0.5)
    local("rl step 1/3\n")
    run.write(StepRecord("rl", "rl", "running", time.time()))
    time.sleep(0.5)
    assert following.is_alive()
    run.begin(dataclasses.replace(Place.here("local"), began="1"))  # it was killed: rl is never said to have ended
    assert following.all() == ["sft step 1/3", "rl step 1/3"]


def test_what_was_there_is_cut_to_its_tail_and_what_comes_then_is_not(run, job, server, monkeypatch):
    shown_slowly, echo = iter(range(400)), click.echo

    def slow(text):
        time.sleep(0.003 if next(shown_slowly, None) is not None else 0)
        echo(text)

    monkeypatch.setattr(click, "echo", slow)
    operator = FakeOperator(server, job.name)
    server.write_log(operator.pod(), *(f"old {n}" for n in range(600)))
    following = Following("sft", "--tail", "400", "--store", run.store.root)
    for n in range(300):  # many of them while the tail is being shown
        time.sleep(0.01)
        server.write_log(operator.pod(), f"new {n}")
    server.wait_for(lambda: any("follow=true" in request for request in server.requests))
    for n in range(300, 350):
        server.write_log(operator.pod(), f"new {n}")
    operator.succeed()
    shown = following.all()
    assert shown == [*(f"old {n}" for n in range(600)), *(f"new {n}" for n in range(350))][-len(shown) :]
    assert 450 <= len(shown) <= 750


def test_the_log_of_a_driver_that_was_killed_has_all_its_lines(tmp_path):
    with driver._log(tmp_path / "run.log") as log:
        log.write("sft step 1/3\n")
        assert (tmp_path / "run.log").read_text() == "sft step 1/3\n"
