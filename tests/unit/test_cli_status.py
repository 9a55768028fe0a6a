"""`rlhf status`: what a run's steps, jobs, pods and workflow do, and where the run is."""

import base64
import dataclasses
import os
import platform
import time
from datetime import UTC, datetime

import pytest

from components.launcher.record import Place, StepRecord
from tests.support.api_server import Fault
from tests.support.commands import invoke_rlhf as rlhf

pytest_plugins = ("tests.support.run_fixtures",)
pytestmark = pytest.mark.usefixtures("nothing_named")


def test_status_says_what_steps_jobs_and_pods_do(run, job):
    out = rlhf("status", "r1", "--store", run.store.root).output
    assert "run r1 in" in out
    assert "namespace rlhf" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "prepare done 2.5 s" in lines
    (running,) = (line for line in lines if line.startswith("sft running"))
    assert 5 <= float(running.split()[2]) < 60
    assert running.endswith(job.name)
    assert f"pod {job.name}-master-0 Running" in lines
    assert "reward waiting" in lines


def test_status_gives_the_reason_of_a_failure(run, server):
    error = {"code": 2, "reason": "no row can be used", "where": "sft.jsonl", "hint": "mend the rows"}
    run.write(StepRecord("sft", "sft", "failed", time.time(), 1.0, error=error))
    assert "sft.jsonl: no row can be used; mend the rows" in rlhf("status", "--store", run.store.root).output


def test_status_knows_a_local_run_whose_process_is_gone(run, tmp_path):
    run.begin(Place("local", platform.node(), 2**22 + 1))
    assert "sft             stopped" in rlhf("status", "r1", "--store", run.store.root).output


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    here = Place.here("local")
    assert here.is_alive()
    assert not dataclasses.replace(here, began="1").is_alive()


def test_a_step_of_a_workflow_that_was_ended_is_stopped(on_pipelines, namespace_of, server, workflow):
    def sft():
        (line,) = (line for line in rlhf("status", "r1", "-n", "kfp").output.splitlines() if line.startswith("sft"))
        return line.split()[1:]

    began = on_pipelines.step("sft").started
    workflow(phase="Running")
    assert sft()[0] == "running"
    server.faults.append(Fault("GET .*/workflows", 403))
    assert sft()[0] == "running"
    ended = datetime.fromtimestamp(began + 61, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    workflow(phase="Failed", finishedAt=ended)
    state, seconds, unit = sft()
    assert (state, unit) == ("stopped", "s")
    assert 60 <= float(seconds) <= 61
    server.drop("workflows", "w")
    assert sft() == ["stopped"]


def test_a_job_that_outlived_its_workflow_still_runs(on_pipelines, namespace_of, job, workflow):
    workflow(phase="Failed")
    assert "sft             running" in rlhf("status", "r1", "-n", "kfp").output


def test_an_unknown_run_is_named_with_those_there_are(run):
    result = rlhf("status", "r9", "--store", run.store.root)
    assert result.exit_code == 2
    assert "no such run; runs: r1" in result.output


def test_the_namespace_says_where_the_store_is(server, run):
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": {"RLHF_STORE": run.store.root}})
    key = base64.b64encode(b"me").decode()
    server.put("secrets", {"metadata": {"name": "rlhf-store"}, "data": {"AWS_ACCESS_KEY_ID": key}})
    assert "run r1 in" in rlhf("status", "-n", "rlhf").output
    assert "AWS_ACCESS_KEY_ID" not in os.environ, "it is for the command alone"
