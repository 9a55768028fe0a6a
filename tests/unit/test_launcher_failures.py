"""A pod that fails: what it left is the reason that is told, and what the operator mends is only told."""

import json
import time

import pytest

from components.common.errors import InputError, RetryableError, RlhfError, UserError
from tests.support.fake_operator import FakeOperator
from tests.support.launched import Launcher

TERMINATION = {"code": 2, "reason": "max_length is too small", "where": "data.sft", "hint": "raise it"}


def test_the_error_that_a_container_left_ends_the_job_at_once(server, step):
    job = step(retries=3)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    operator.set_container(operator.end_container(2, message=json.dumps(TERMINATION)))
    assert launcher.error_of(UserError) == "data.sft: max_length is too small; raise it"
    assert not server.objects["pytorchjobs"]


def test_of_several_pods_errors_the_telling_one_is_said(server, step):
    job = step(retries=3, nodes=2, gpus_per_node=1)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod(0)
    operator.run_pod(1)
    lost = {"code": 75, "reason": "lost another process"}
    operator.set_container(operator.end_container(75, message=json.dumps(lost)))
    operator.set_container(
        operator.end_container(3, message=json.dumps({"code": 3, "reason": "was altered"}), index=1), index=1
    )
    assert launcher.error_of(InputError) == "was altered"


def test_a_retryable_end_is_left_to_the_operator_and_told(server, step, capsys):
    job = step(retries=3)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    server.write_log(operator.pod(), "sft step 1/2")
    message = json.dumps({"code": 75, "reason": "the store is gone"})
    operator.restart(operator.end_container(75, message=message))
    server.write_log(operator.pod(), "sft step 2/2")
    time.sleep(0.3)
    operator.succeed()
    assert launcher.result() is None
    out = capsys.readouterr().out
    assert "starts again: the store is gone" in out
    assert out.index("step 1/2") < out.index("step 2/2")


@pytest.mark.parametrize(
    ("ended", "kind", "said"),
    [
        ({"code": 137, "reason": "OOMKilled"}, UserError, "at its limit of 48Gi; raise launcher.resources.sft.memory"),
        ({"code": 9, "message": "Traceback\nImportError: no x\n"}, RlhfError, "exit code 9: ImportError: no x"),
        ({"code": 137}, RetryableError, "was killed (exit code 137)"),
    ],
)
def test_a_failed_jobs_reason_is_found_though_its_pods_are_cleared_away(server, step, ended, kind, said):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    code = ended.pop("code")
    operator.set_container(operator.end_container(code, **ended), phase="Failed")
    server.wait_for(lambda: any("/log" in request and "follow" not in request for request in server.requests))
    time.sleep(0.3)
    server.drop("pods", operator.pod())
    if job.name in server.objects["pytorchjobs"]:
        operator.condition("Failed", "BackoffLimitExceeded", "the limit was reached")
    assert said in launcher.error_of(kind)


def test_an_evicted_pod_is_told_and_followed_by_the_next(server, step, capsys):
    job = step(retries=2)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.create_pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    time.sleep(0.3)
    server.drop("pods", operator.pod())
    operator.run_pod()
    server.write_log(operator.pod(), "sft again")
    operator.succeed()
    assert launcher.result() is None
    out = capsys.readouterr().out
    assert "was lost: Evicted: The node was low on resource: memory." in out
    assert "sft again" in out
