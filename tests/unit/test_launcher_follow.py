"""A job is followed to its end and cleared away, whatever becomes of it, of its API server and of its run."""

import json
import time

from kfp import dsl

from components.common.artifacts import commit
from components.common.directory_store import DirectoryStore
from components.common.errors import RetryableError, UserError
from components.common.manifest import Manifest
from components.launcher.credentials import StoreKeys
from components.launcher.record import Run
from components.launcher.steps import Finished
from components.launcher.waits import StalledError
from tests.support.api_server import Fault
from tests.support.fake_operator import FakeOperator
from tests.support.launched import KEY, Launcher


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


def test_a_job_is_left_alone_when_it_is_we_who_cannot_see_it(server, step):
    server.faults.append(Fault("GET .*watch=true", 403, "watching is forbidden", times=1000))
    job = step()
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    assert "watching is forbidden" in launcher.error_of(UserError)
    assert job.name in server.objects["pytorchjobs"]


def test_a_job_stays_if_it_is_to_be_kept(server, step):
    job = step(keep_jobs=True)
    launcher, operator = Launcher(job), FakeOperator(server, job.name)
    operator.await_job()
    operator.run_pod()
    operator.succeed()
    assert launcher.result() is None
    assert job.name in server.objects["pytorchjobs"]


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
    assert "hangs: no heartbeat for 1 s after step 7" in launcher.error_of(StalledError)
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


def test_what_kubeflow_pipelines_keeps_of_a_result_says_where_it_is(tmp_path):
    model, metrics = dsl.Model(uri=str(tmp_path / "run" / "adapter")), dsl.Metrics()
    finished = Finished("s3://rlhf/artifacts/sft/k", {"after": {"loss": 1.5}}, {"kind": "adapter"})
    assert finished.register(model, metrics) == "s3://rlhf/artifacts/sft/k"
    assert model.uri == str(tmp_path / "run" / "adapter")  # any other place would fail the step
    assert (tmp_path / "run" / "adapter").read_text() == "s3://rlhf/artifacts/sft/k\n"
    assert model.metadata == {"kind": "adapter", "uri": "s3://rlhf/artifacts/sft/k"}
    assert metrics.metadata == {"after.loss": 1.5}
