"""Jobs on a fake API server: made, adopted, followed, failed, cleared away."""

import json
import threading
import time
from pathlib import Path

import pytest
from kfp import dsl

from components.common.artifacts import Manifest, commit
from components.common.errors import InputError, RetryableError, RlhfError, UserError
from components.common.store import DirectoryStore
from components.launcher import acquire, cluster_run, follow, job_logs
from components.launcher.cluster import connect
from components.launcher.config import LauncherConfig
from components.launcher.credentials import StoreKeys
from components.launcher.job import stage_job
from components.launcher.log_lines import Line
from components.launcher.log_store import StoredLog
from components.launcher.objects import to_object
from components.launcher.record import Run
from components.launcher.steps import Finished
from tests.support.api_server import Fault
from tests.support.fake_operator import FakeOperator

KEY = "0123456789abcdef"


@pytest.fixture
def server(server, monkeypatch):
    monkeypatch.setattr(follow, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(acquire, "OPERATOR_SECONDS", 2.0)
    monkeypatch.setattr(follow, "OPERATOR_SECONDS", 1.0)
    monkeypatch.setattr(follow, "HOPE_SECONDS", 0.3)
    return server


@pytest.fixture
def step(tmp_path):
    def make(run="run-1", key=KEY, **settings):
        config = LauncherConfig.model_validate({"retries": 0, "grace_period": 1, **settings})
        root = str(tmp_path / "store")
        output = f"{root}/artifacts/sft/{key}"
        return stage_job(run, "sft", key, ["--output", output], root, config, cluster=True, output=output)

    return make


class Launcher(threading.Thread):
    """Runs a step beside the test."""

    def __init__(self, job):
        super().__init__(daemon=True)
        self.job, self.error = job, None
        self.start()

    def run(self):
        try:
            cluster_run.run_on_cluster(self.job)
        except BaseException as error:
            self.error = error

    def result(self, seconds=60.0):
        self.join(seconds)
        assert not self.is_alive(), "the launcher does not end"
        return self.error

    def error_of(self, kind, seconds=60.0):
        error = self.result(seconds)
        assert type(error) is kind, repr(error)
        return str(error)


def test_a_job_is_made_followed_and_cleared_away(server, step, capsys):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.condition("Created")
    operator.run_pod()
    server.write_log(operator.pod(), "sft step 1/2", "sft step 2/2")
    operator.succeed()
    assert launcher.result() is None
    assert "sft step 1/2\nsft step 2/2\n" in capsys.readouterr().out
    assert job.name not in server.objects["pytorchjobs"]
    assert not server.objects["pods"]


def test_the_keys_of_its_pods_are_looked_after_while_a_job_runs(server, step, monkeypatch):
    looks = []
    monkeypatch.setattr(StoreKeys, "renew", lambda keys: looks.append(keys))
    launcher, operator = Launcher(step()), FakeOperator(server, step().name)
    operator.await_job()
    operator.run_pod()
    server.wait_for(lambda: any("/log" in request for request in server.requests))
    seen = len(looks)
    time.sleep(0.5)
    assert len(looks) > seen
    operator.succeed()
    assert launcher.result() is None


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


def test_a_deleted_job_whose_result_is_there_has_succeeded(server, step, tmp_path):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    store = DirectoryStore(tmp_path / "store")
    commit(store, f"artifacts/sft/{KEY}", store.scratch(), Manifest(kind="adapter", stage="sft", key=KEY, files=()))
    server.drop("pytorchjobs", job.name)
    assert launcher.result() is None


def test_a_deleted_job_without_a_result_is_told_from_a_cancelled_run(server, step, tmp_path):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    time.sleep(0.3)
    server.drop("pytorchjobs", job.name)
    assert "deleted by somebody else" in launcher.error_of(RetryableError)

    launcher = Launcher(job)
    server.wait_for(lambda: job.name in server.objects["pytorchjobs"])
    time.sleep(0.3)
    Run(DirectoryStore(tmp_path / "store"), job.run).cancel()
    server.drop("pytorchjobs", job.name)
    assert "the run was cancelled" in launcher.error_of(UserError)


def test_a_job_of_a_run_that_was_cancelled_meanwhile_is_taken_back(server, step, tmp_path):
    job = step()
    Run(DirectoryStore(tmp_path / "store"), job.run).cancel()
    assert "the run was cancelled" in Launcher(job).error_of(UserError)
    assert not server.objects["pytorchjobs"]


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


def test_a_pods_lines_wait_for_nothing(server, step, capsys, monkeypatch):
    files = DirectoryStore.files

    def slow(store, prefix):
        time.sleep(30 if "logs" in prefix else 0)
        return files(store, prefix)

    monkeypatch.setattr(DirectoryStore, "files", slow)
    monkeypatch.setattr(follow, "TICK_SECONDS", 30.0)
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    server.wait_for(lambda: sum("watch=true" in request for request in server.requests) == 2)
    operator.create_pod()
    operator.run_pod()
    server.wait_for(lambda: any("/log" in request for request in server.requests), 5)
    server.write_log(operator.pod(), "sft step 1/2")
    end = time.monotonic() + 5
    while "sft step 1/2" not in capsys.readouterr().out:
        assert time.monotonic() < end
        time.sleep(0.02)
    operator.succeed()
    assert launcher.result() is None


def test_lines_that_an_earlier_launcher_stored_are_not_printed_again(server, step, capsys, monkeypatch):
    monkeypatch.setattr(job_logs, "AGAIN_SECONDS", 0.1)
    resume, away = StoredLog.resume, iter(range(3))

    def resumed(log):
        if next(away, None) is not None:
            raise RetryableError("the store is away")
        return resume(log)

    monkeypatch.setattr(StoredLog, "resume", resumed)
    job = step()
    made = server.put("pytorchjobs", {**to_object(job), "status": {"conditions": []}})
    operator = FakeOperator(server, job.name)
    operator.run_pod()
    server.write_log(operator.pod(), "sft step 1/3", "sft step 2/3")
    uid = server.objects["pods"][operator.pod()]["metadata"]["uid"]
    stored = StoredLog(DirectoryStore(Path(job.root)), f"{job.work}/logs", f"{operator.pod()}.{uid[:8]}")
    for stamp, text in server.logs[operator.pod()][0].lines:
        stored.append(Line(stamp, text))
    stored.flush()
    launcher = Launcher(job)
    server.wait_for(lambda: any("/log" in request for request in server.requests))
    server.write_log(operator.pod(), "sft step 3/3")
    operator.succeed()
    assert launcher.result() is None, made
    out = capsys.readouterr().out
    assert "step 2/3" not in out
    assert "sft step 3/3" in out
    assert out.count("the logs cannot be stored for now: the store is away") == 1


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


def test_a_step_that_takes_too_long_is_ended(server, step):
    job = step(deadline=1)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    assert "is not done after 1 s; raise launcher.deadline" in launcher.error_of(UserError)
    assert not server.objects["pytorchjobs"]


def test_a_step_that_hangs_is_started_again_and_one_that_hangs_again_is_given_up(server, step, tmp_path, capsys):
    job = step(stall_timeout=1, retries=1)
    beat = tmp_path / "store" / job.work / "heartbeat.json"
    beat.parent.mkdir(parents=True)
    beat.write_text(json.dumps({"time": 1, "step": 7}))
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    first = operator.await_job()["metadata"]["uid"]
    operator.run_pod()
    server.wait_for(
        lambda: server.objects["pytorchjobs"].get(job.name, {"metadata": {"uid": first}})["metadata"]["uid"] != first
    )
    operator.run_pod()
    assert "hangs: no heartbeat for 1 s after step 7" in launcher.error_of(follow.StalledError)
    assert "starts again from the last checkpoint" in capsys.readouterr().out
    assert not server.objects["pytorchjobs"]


def test_a_step_with_a_heartbeat_is_left_alone(server, step, tmp_path):
    job = step(stall_timeout=1)
    beat = tmp_path / "store" / job.work / "heartbeat.json"
    beat.parent.mkdir(parents=True)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    for number in range(8):
        beat.write_text(json.dumps({"time": 1, "step": number}))
        time.sleep(0.3)
    operator.succeed()
    assert launcher.result() is None


def test_the_api_server_may_be_gone_and_forget(server, step, capsys):
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    server.write_log(operator.pod(), "sft 1")
    server.wait_for(lambda: any("/log" in request for request in server.requests))
    server.go_down()
    server.write_log(operator.pod(), "sft 2")
    time.sleep(1.0)
    server.forget_events()
    operator.succeed()
    server.come_up()
    assert launcher.result() is None
    assert "sft 1\nsft 2\n" in capsys.readouterr().out


def test_a_job_stays_if_it_is_to_be_kept(server, step):
    job = step(keep_jobs=True)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    operator.succeed()
    assert launcher.result() is None
    assert job.name in server.objects["pytorchjobs"]


def test_a_run_whose_id_is_no_label_is_refused(server, step):
    assert "is no label for Kubernetes" in Launcher(step(run="-x")).error_of(UserError)


def test_logs_of_all_ranks_are_in_the_store_and_those_of_rank_0_are_shown(server, step, tmp_path, capsys):
    job = step(nodes=2, gpus_per_node=1)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    for index in (0, 1):
        operator.run_pod(index)
        server.write_log(operator.pod(index), f"sft from {index}")
    operator.succeed(0)
    assert launcher.result() is None
    assert "sft from 0" in (out := capsys.readouterr().out)
    assert "sft from 1" not in out
    stored = {path.name.split(".")[0]: path.read_text() for path in (tmp_path / "store" / job.work / "logs").iterdir()}
    assert stored.keys() == {operator.pod(0), operator.pod(1)}
    assert all(f"sft from {index}" in stored[operator.pod(index)] for index in (0, 1))


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


def test_a_job_is_left_alone_when_it_is_we_who_cannot_see_it(server, step):
    server.faults.append(Fault("GET .*watch=true", 403, "watching is forbidden", times=1000))
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    assert "watching is forbidden" in launcher.error_of(UserError)
    assert job.name in server.objects["pytorchjobs"]


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


def test_what_kubeflow_pipelines_keeps_of_a_result_says_where_it_is(tmp_path):
    model, metrics = dsl.Model(uri=str(tmp_path / "run" / "adapter")), dsl.Metrics()
    finished = Finished("s3://rlhf/artifacts/sft/k", {"after": {"loss": 1.5}}, {"kind": "adapter"})
    assert finished.register(model, metrics) == "s3://rlhf/artifacts/sft/k"
    assert model.uri == str(tmp_path / "run" / "adapter")  # any other place would fail the step
    assert (tmp_path / "run" / "adapter").read_text() == "s3://rlhf/artifacts/sft/k\n"
    assert model.metadata == {"kind": "adapter", "uri": "s3://rlhf/artifacts/sft/k"}
    assert metrics.metadata == {"after.loss": 1.5}
