"""`rlhf cancel` and a run's last step: no job is left, wherever it is, and no step begins."""

import pytest

from components.common import s3_retry
from components.launcher.__main__ import main as launcher
from components.launcher.objects import to_object
from components.launcher.record import Run
from tests.support.commands import invoke_rlhf as rlhf

pytest_plugins = ("tests.support.run_fixtures",)
pytestmark = pytest.mark.usefixtures("nothing_named")


def test_cancel_deletes_the_jobs_and_keeps_steps_from_beginning(run, job, server, workflow):
    workflow()
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


def test_cancel_looks_for_jobs_where_the_run_puts_them_and_for_the_workflow_where_it_was_asked(
    on_pipelines, job, server, workflow
):
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": {"RLHF_STORE": on_pipelines.store.root}})
    workflow()
    assert rlhf("cancel", "r1", "-n", "kfp").exit_code == 0
    changes = [line.partition("?")[0] for line in server.requests if line.startswith(("DELETE", "PATCH"))]
    assert changes == [
        f"DELETE /apis/kubeflow.org/v1/namespaces/jobs/pytorchjobs/{job.name}",
        "PATCH /apis/argoproj.io/v1alpha1/namespaces/kfp/workflows/w",
    ]


def test_a_run_whose_first_step_has_not_begun_is_known_by_its_workflow(run, namespace_of, server, workflow):
    workflow("r2", phase="Running")
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


def test_a_run_is_cancelled_though_its_store_is_down(run, job, server, workflow, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(s3_retry, "FIRST_SECONDS", 0.5)
    settings = {"RLHF_STORE": "s3://rlhf", "AWS_ENDPOINT_URL": "http://minio:9000"}
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": settings})
    ports = [{"port": 9000, "targetPort": 9000}]
    server.put("services", {"metadata": {"name": "minio"}, "spec": {"selector": {"app": "minio"}, "ports": ports}})
    workflow()
    result = rlhf("cancel", "r1", "-n", "rlhf")
    assert result.exit_code == 75
    assert f"deleted job {job.name}" in result.output
    assert "a step may begin yet, as the store cannot be told" in result.output
    assert not server.objects["pytorchjobs"]
    assert server.objects["workflows"]["w"]["spec"] == {"activeDeadlineSeconds": 0}
    asked = rlhf("status", "r1", "-n", "rlhf")
    assert (asked.exit_code, "has no pod that runs" in asked.output) == (75, True)


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
