"""rlhf run --on kubernetes, status, logs and cancel, against a fake API server."""

import base64
import dataclasses
import json
import os
import platform
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from components.common import s3_retry
from components.common.store import DirectoryStore
from components.launcher.__main__ import main as launcher
from components.launcher.config import LauncherConfig
from components.launcher.forward import service_of
from components.launcher.job import stage_job
from components.launcher.log_lines import Line
from components.launcher.log_store import StoredLog
from components.launcher.objects import to_object
from components.launcher.record import Place, Run, StepRecord
from components.prepare.resolve import Request, resolve
from pipelines.cli import driver, logs, main
from pipelines.cli.local_pipeline import leave_parameters_alone
from pipelines.cli.on_cluster import check_paths, embed_files
from tests.support.api_server import Fault
from tests.support.fake_operator import FakeOperator

KEY = "0123456789abcdef"


@pytest.fixture
def server(server, monkeypatch):
    for name in ("RLHF_STORE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "RLHF_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    return server


@pytest.fixture
def run(tmp_path):
    run = Run(DirectoryStore(tmp_path / "store"), "r1")
    run.begin(Place("kubernetes", "laptop", 1, "rlhf"))
    run.write(StepRecord("prepare", "prepare", "done", time.time() - 9, 2.5))
    run.write(StepRecord("sft", "sft", "running", time.time() - 5))
    return run


@pytest.fixture
def job(server, run):
    """An sft step whose pod runs."""
    config = LauncherConfig(namespace="rlhf")
    job = stage_job("r1", "sft", KEY, [], run.store.root, config, cluster=True, output="x")
    server.put("pytorchjobs", {**to_object(job), "status": {"conditions": [{"type": "Running", "status": "True"}]}})
    operator = FakeOperator(server, job.name)
    operator.run_pod()
    server.write_log(operator.pod(), "sft step 1/3", "sft step 2/3")
    return job


def rlhf(*arguments):
    return CliRunner().invoke(main, arguments)


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


def test_cancel_deletes_the_jobs_and_keeps_steps_from_beginning(run, job, server):
    server.put("workflows", {"metadata": {"name": "w", "labels": {"pipeline/runid": "r1"}}, "spec": {}})
    other = dict(to_object(job), metadata={"name": "other", "labels": {**job.labels, "rlhf-stack/run": "r2"}})
    server.put("pytorchjobs", other)
    result = rlhf("cancel", "r1", "--store", run.store.root)
    assert result.exit_code == 0
    assert f"deleted job {job.name}" in result.output
    assert list(server.objects["pytorchjobs"]) == ["other"]
    assert server.objects["workflows"]["w"]["spec"] == {"activeDeadlineSeconds": 0}
    with pytest.raises(SystemExit) as stopped, run.recording("reward", "reward"):
        pytest.fail("the step begins")
    assert stopped.value.code == 2
    run.forget_unfinished()
    assert not run.is_cancelled()


@pytest.fixture
def on_pipelines(run):
    """The run as Kubeflow Pipelines drives it, whose jobs are in another namespace than its steps."""
    run.store.remove(f"runs/{run.run_id}/place.json")
    run.store.write("runs/r1/config.yaml", b"launcher: {namespace: jobs}")
    return run


def test_cancel_looks_for_jobs_where_the_run_puts_them_and_for_the_workflow_where_it_was_asked(
    on_pipelines, job, server
):
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": {"RLHF_STORE": on_pipelines.store.root}})
    server.put("workflows", {"metadata": {"name": "w", "labels": {"pipeline/runid": "r1"}}, "spec": {}})
    assert rlhf("cancel", "r1", "-n", "kfp").exit_code == 0
    changes = [line.partition("?")[0] for line in server.requests if line.startswith(("DELETE", "PATCH"))]
    assert changes == [
        f"DELETE /apis/kubeflow.org/v1/namespaces/jobs/pytorchjobs/{job.name}",
        "PATCH /apis/argoproj.io/v1alpha1/namespaces/kfp/workflows/w",
    ]


def workflow(server, run="r1", **status):
    """The workflow of a run of Kubeflow Pipelines."""
    server.put(
        "workflows", {"metadata": {"name": "w", "labels": {"pipeline/runid": run}}, "spec": {}, "status": status}
    )


@pytest.fixture
def namespace_of(run, server):
    """The namespace kfp, whose ConfigMap names the run's store."""
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": {"RLHF_STORE": run.store.root}})


def test_a_run_whose_first_step_has_not_begun_is_known_by_its_workflow(run, namespace_of, server):
    workflow(server, "r2", phase="Running")
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pod = {
        "metadata": {"name": "w-1", "labels": {"pipeline/runid": "r2", "rlhf-stack/step": "prepare"}},
        "spec": {},
        "status": {"phase": "Pending", "containerStatuses": [{"name": "main", "restartCount": 0, "state": waiting}]},
    }
    server.put("pods", pod)
    lines = [" ".join(line.split()) for line in rlhf("status", "r2", "-n", "kfp").output.splitlines()]
    assert lines[0] == f"run r2 in {run.store.root} (namespace kfp, workflow Running)"
    assert lines[1:3] == ["prepare waiting", "pod w-1 Pending: ImagePullBackOff: no such image"]
    result = rlhf("cancel", "r2", "-n", "kfp")
    assert result.exit_code == 0, result.output
    assert server.objects["workflows"]["w"]["spec"] == {"activeDeadlineSeconds": 0}
    assert Run(run.store, "r2").is_cancelled()
    assert rlhf("cancel", "r3", "-n", "kfp").exit_code == 2


def test_a_run_is_cancelled_though_its_store_is_down(run, job, server, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(s3_retry, "FIRST_SECONDS", 0.5)
    settings = {"RLHF_STORE": "s3://rlhf", "AWS_ENDPOINT_URL": "http://minio:9000"}
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": settings})
    ports = [{"port": 9000, "targetPort": 9000}]
    server.put("services", {"metadata": {"name": "minio"}, "spec": {"selector": {"app": "minio"}, "ports": ports}})
    workflow(server)
    result = rlhf("cancel", "r1", "-n", "rlhf")
    assert result.exit_code == 75
    assert f"deleted job {job.name}" in result.output
    assert "a step may begin yet, as the store cannot be told" in result.output
    assert not server.objects["pytorchjobs"]
    assert server.objects["workflows"]["w"]["spec"] == {"activeDeadlineSeconds": 0}
    asked = rlhf("status", "r1", "-n", "rlhf")
    assert (asked.exit_code, "has no pod that runs" in asked.output) == (75, True)


def test_a_step_of_a_workflow_that_was_ended_is_stopped(on_pipelines, namespace_of, server):
    def sft():
        (line,) = (line for line in rlhf("status", "r1", "-n", "kfp").output.splitlines() if line.startswith("sft"))
        return line.split()[1:]

    began = on_pipelines.step("sft").started
    workflow(server, phase="Running")
    assert sft()[0] == "running"
    server.faults.append(Fault("GET .*/workflows", 403))
    assert sft()[0] == "running"
    ended = datetime.fromtimestamp(began + 61, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    workflow(server, phase="Failed", finishedAt=ended)
    state, seconds, unit = sft()
    assert (state, unit) == ("stopped", "s")
    assert 60 <= float(seconds) <= 61
    server.drop("workflows", "w")
    assert sft() == ["stopped"]


def test_a_job_that_outlived_its_workflow_still_runs(on_pipelines, namespace_of, job, server):
    workflow(server, phase="Failed")
    assert "sft             running" in rlhf("status", "r1", "-n", "kfp").output


def test_the_last_step_looks_for_jobs_beside_itself_and_where_the_run_puts_them(
    on_pipelines, server, monkeypatch, capsys
):
    monkeypatch.setenv("RLHF_STORE", on_pipelines.store.root)
    assert launcher(["cleanup", "r1"]) == 0
    listed = [line.partition("?")[0].split("/")[-2:] for line in server.requests if "/pytorchjobs" in line]
    assert listed == [["rlhf", "pytorchjobs"], ["jobs", "pytorchjobs"]]
    assert "no jobs are left" in capsys.readouterr().out


def test_the_last_step_of_a_run_that_was_never_prepared_looks_beside_itself(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_STORE", str(tmp_path / "store"))
    assert launcher(["cleanup", "r1"]) == 0
    assert sum("/pytorchjobs" in line for line in server.requests) == 1


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


def test_a_run_needs_a_cluster_that_answers(monkeypatch, tmp_path, server):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = rlhf("run", "--on", "kubernetes")
    assert result.exit_code == 2
    assert "no cluster is known" in result.output
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    server.close()
    result = rlhf("run", "--on", "kubernetes")
    assert result.exit_code == 75
    assert "no cluster answers" in result.output


def test_a_run_needs_a_store_that_pods_can_see(server, tmp_path):
    result = rlhf("run", "--on", "kubernetes", "--store", str(tmp_path))
    assert result.exit_code == 2
    assert "is a folder of this machine, which pods cannot see" in result.output


def test_what_is_on_this_machine_only_is_refused_with_the_way_to_bring_it(tmp_path):
    (tmp_path / "sft.jsonl").write_text("{}\n")
    config = resolve(Request("tiny-cpu", data=str(tmp_path)))
    with pytest.raises(Exception, match=r"data.sft.sources\[0\]: .*sft.jsonl is on this machine.*`rlhf put --on kub"):
        check_paths(config, "s3://b")
    mounts = f"launcher.volume_mounts=[{{name: x, mountPath: {tmp_path}}}]"
    check_paths(resolve(Request("tiny-cpu", data=str(tmp_path), overrides=mounts)), "s3://b")


def test_a_missing_secret_is_named_with_the_command_that_makes_it(server):
    result = rlhf("run", "--on", "kubernetes", "--store", "s3://b")
    assert result.exit_code == 2
    assert "kubectl -n rlhf create secret generic rlhf-store --from-literal=AWS_ACCESS_KEY_ID=…" in result.output


def test_local_configuration_files_are_sent_as_text(tmp_path):
    for name in ("preset", "config"):
        (tmp_path / f"{name}.yaml").write_text(f"sft: {{max_steps: 3}}  # {name}\n")
    sent = embed_files({name: str(tmp_path / f"{name}.yaml") for name in ("preset", "config")})
    assert yaml.safe_load(str(sent["preset"])) == yaml.safe_load(str(sent["config"])) == {"sft": {"max_steps": 3}}
    assert resolve(Request(str(sent["preset"]), model="scratch")).sft.max_steps == 3


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://minio.rlhf:9000", ("minio", "rlhf")),
        ("http://minio.rlhf.svc:9000", ("minio", "rlhf")),
        ("https://minio.rlhf.svc.cluster.local", ("minio", "rlhf")),
        ("http://minio-in-no-hosts-file:9000", ("minio-in-no-hosts-file", "mine")),
        ("http://localhost:9000", None),
        ("http://127.0.0.1:9000", None),
        ("https://s3.eu-west-1.amazonaws.com", None),
        ("", None),
    ],
)
def test_names_that_only_the_cluster_knows_are_told_from_others(url, service):
    assert service_of(url, "mine") == service


def test_kfp_does_not_touch_what_parameters_say():
    command = ["python3 -m x", "--executor_input", json.dumps({"model": "/opt/python3/m"}), "python3"]
    replaced = leave_parameters_alone(lambda parts, new: [p.replace("python3", new) for p in parts], command, "/bin/py")
    assert replaced == ["/bin/py -m x", "--executor_input", json.dumps({"model": "/opt/python3/m"}), "/bin/py"]


def test_durations_are_read_as_people_write_them():
    config = LauncherConfig.model_validate({"deadline": "6h", "pending_timeout": "90", "stall_timeout": 15})
    assert (config.deadline, config.pending_timeout, config.stall_timeout) == (21600, 90, 15)
    with pytest.raises(ValueError, match="deadline"):
        LauncherConfig.model_validate({"deadline": "soon"})


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    here = Place.here("local")
    assert here.is_alive()
    assert not dataclasses.replace(here, began="1").is_alive()
