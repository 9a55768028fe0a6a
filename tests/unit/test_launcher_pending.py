"""Pods that do not start: why is said, and they are waited for as long as that can help."""

import json
import time

import pytest

from components.common.errors import RetryableError, UserError
from tests.support.fake_operator import FakeOperator
from tests.support.launched import Launcher

SCHEDULER = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def test_pods_that_cannot_be_scheduled_are_told_in_the_schedulers_words_and_given_up(server, step, capsys):
    job = step(pending_timeout=1)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SCHEDULER}
    operator.create_pod(conditions=[unscheduled])
    error = launcher.error_of(RetryableError)
    assert f"has not started after 1 s: {SCHEDULER}" in error
    assert capsys.readouterr().out.count(SCHEDULER) == 1
    assert not server.objects["pytorchjobs"]


@pytest.mark.parametrize(
    ("reason", "said"),
    [("ImagePullBackOff", "cannot be pulled"), ("CreateContainerConfigError", "see that the Secrets and ConfigMaps")],
)
def test_pods_that_wait_for_what_will_not_come_are_given_up_soon(server, step, reason, said):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.create_pod()
    operator.set_container({"waiting": {"reason": reason, "message": "no such thing"}}, phase="Pending")
    error = launcher.error_of(UserError)
    assert said in error
    assert "no such thing" in error


def test_an_operator_that_does_not_take_a_job_up_is_named(server, step):
    assert "has not taken the job up" in Launcher(step()).error_of(RetryableError)


def test_events_are_asked_for_now_and_then_and_only_those_of_the_job(server, step):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.condition("Created")
    server.wait_for(lambda: any("/events" in request for request in server.requests))
    time.sleep(1.0)  # the job is looked at twenty times
    (asked,) = [request for request in server.requests if "/events" in request]
    assert f"fieldSelector=involvedObject.name%3D{job.name}" in asked
    operator.run_pod()
    operator.succeed()
    assert launcher.result() is None


def test_what_forbids_the_pods_is_said(server, step):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.condition("Created")
    event = {"type": "Warning", "reason": "FailedCreatePod", "message": "exceeded quota: gpus"}
    server.put("events", {"metadata": {"name": "e"}, "involvedObject": {"name": job.name}, **event})
    assert "no pod can be made: FailedCreatePod: exceeded quota: gpus" in launcher.error_of(UserError)


def test_a_job_in_a_queue_waits_as_long_as_it_takes(server, step):
    job = step(pending_timeout=1, queue_name="t4")
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.condition("Suspended")
    time.sleep(2.0)
    assert launcher.is_alive()
    server.drop("pytorchjobs", job.name)
    launcher.result()


def test_a_failed_pod_beside_the_one_that_runs_is_no_missing_start(server, step):
    job = step(pending_timeout=1)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    old = json.loads(json.dumps(server.objects["pods"][operator.pod()]))
    old["metadata"] = {**old["metadata"], "name": "evicted", "uid": "evicted"}
    server.put("pods", {**old, "status": {"phase": "Failed", "reason": "Evicted"}})
    time.sleep(2.5)
    operator.succeed()
    assert launcher.result() is None
