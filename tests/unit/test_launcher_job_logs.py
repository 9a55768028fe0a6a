"""The lines of a job's pods: at once, once, and those of every rank in the store."""

import time
from pathlib import Path

from components.common.directory_store import DirectoryStore
from components.common.errors import RetryableError
from components.launcher import follow, job_logs
from components.launcher.log_lines import Line
from components.launcher.log_store import StoredLog
from components.launcher.objects import to_object
from tests.support.fake_operator import FakeOperator
from tests.support.launched import Launcher


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
    time.sleep(0.5)  # for its first look: of a pod that it finds there, an earlier launcher may have stored lines
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
