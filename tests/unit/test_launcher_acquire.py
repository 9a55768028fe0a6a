"""A job is made or taken over, and what the cluster has against it is said in one sentence."""

import pytest

from components.common.directory_store import DirectoryStore
from components.common.errors import RetryableError, UserError
from components.launcher import acquire
from components.launcher.connect import connect
from components.launcher.record import Run
from tests.support.api_server import Fault
from tests.support.fake_operator import FakeOperator
from tests.support.launched import Launcher


def test_creation_waits_for_a_webhook_that_is_being_rolled_out(server, step):
    server.faults.append(Fault("POST .*/pytorchjobs", 500, "failed calling webhook: connection refused", times=2))
    server.faults.append(Fault("POST .*/pytorchjobs", 503, "busy"))
    server.faults.append(Fault("POST .*/pytorchjobs", 0))
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    operator.succeed()
    assert launcher.result() is None


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        (500, "failed calling webhook: no endpoints", RetryableError, "the training operator does not answer"),
        (404, "the server could not find the requested resource", UserError, "no pytorchjobs; install the training"),
        (404, 'namespaces "rlhf" not found', UserError, 'namespaces "rlhf" not found; make it'),
        (403, "pytorchjobs is forbidden", UserError, "see the role rlhf-launcher"),
        (403, 'admission webhook "policy" denied the request', UserError, "the cluster refuses the job"),
        (422, "spec.x: Invalid value", UserError, "spec.x: Invalid value"),
    ],
)
def test_what_the_cluster_refuses_is_said_in_one_sentence(server, step, status, message, kind, said):
    server.faults.append(Fault("POST .*/pytorchjobs", status, message, times=1000))
    assert said in Launcher(step()).error_of(kind)


def test_a_job_of_the_same_run_is_adopted_and_one_of_another_is_not(server, step):
    job = step()
    first, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    second = Launcher(job)
    operator.run_pod()
    server.wait_for(lambda: sum("/log" in request for request in server.requests) >= 2)
    operator.succeed()
    assert first.result() is None
    # Whoever comes second may find the job cleared away, and then only the result tells how it ended.
    assert second.result() is None or "deleted by somebody else" in str(second.error)
    assert sum(request.startswith("POST") and "pytorchjobs" in request for request in server.requests) == 2

    server.put("pytorchjobs", {"metadata": {"name": job.name, "labels": {**job.labels, "rlhf-stack/run": "other"}}})
    assert "another job of that name" in Launcher(job).error_of(UserError)


def test_a_failed_job_of_an_earlier_try_is_replaced(server, step):
    job = step()
    failed = {"conditions": [{"type": "Failed", "status": "True"}]}
    old = server.put("pytorchjobs", {"metadata": {"name": job.name, "labels": job.labels}, "status": failed})
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    server.wait_for(
        lambda: server.objects["pytorchjobs"].get(job.name, old)["metadata"]["uid"] != old["metadata"]["uid"]
    )
    operator.run_pod()
    operator.succeed()
    assert launcher.result() is None


def test_a_job_of_a_run_that_was_cancelled_meanwhile_is_taken_back(server, step, tmp_path):
    job = step()
    Run(DirectoryStore(tmp_path / "store"), job.run).cancel()
    assert "the run was cancelled" in Launcher(job).error_of(UserError)
    assert not server.objects["pytorchjobs"]


def test_a_run_whose_id_is_no_label_is_refused(server, step):
    assert "is no label for Kubernetes" in Launcher(step(run="-x")).error_of(UserError)


def test_a_job_belongs_to_the_workflow_of_the_pod_that_makes_it_unless_it_is_elsewhere(server, monkeypatch):
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u", "controller": True}
    server.put("pods", {"metadata": {"name": "the-whole-name", "ownerReferences": [owner]}})
    monkeypatch.setenv("HOSTNAME", "the-whole")
    monkeypatch.setenv("KFP_POD_NAME", "the-whole-name")
    monkeypatch.setattr(acquire, "in_cluster", lambda: True)
    monkeypatch.setattr(acquire, "own_namespace", lambda: "rlhf")
    wanted = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    assert acquire.owner_reference(connect("rlhf")) == wanted
    asked = len(server.requests)
    assert acquire.owner_reference(connect("jobs")) is None
    assert len(server.requests) == asked
