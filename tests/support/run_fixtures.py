"""Fixtures of tests of commands about a run on a cluster: `pytest_plugins = ("tests.support.run_fixtures",)`."""

from __future__ import annotations

import time

import pytest

from components.common.directory_store import DirectoryStore
from components.launcher.config import LauncherConfig
from components.launcher.job import stage_job
from components.launcher.objects import to_object
from components.launcher.record import Place, Run, StepRecord
from tests.support.fake_operator import FakeOperator
from tests.support.launched import KEY


@pytest.fixture
def nothing_named(monkeypatch):
    """An environment that names neither store nor namespace."""
    for name in ("RLHF_STORE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "RLHF_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path):
    """A run on a cluster that is at its sft step."""
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


@pytest.fixture
def on_pipelines(run):
    """The run as Kubeflow Pipelines drives it, whose jobs are in another namespace than its steps."""
    run.store.remove(f"runs/{run.run_id}/place.json")
    run.store.write("runs/r1/config.yaml", b"launcher: {namespace: jobs}")
    return run


@pytest.fixture
def workflow(server):
    """Puts the workflow of a run of Kubeflow Pipelines on the server."""

    def put(run="r1", **status):
        labels = {"pipeline/runid": run}
        server.put("workflows", {"metadata": {"name": "w", "labels": labels}, "spec": {}, "status": status})

    return put


@pytest.fixture
def namespace_of(run, server):
    """The namespace kfp, whose ConfigMap names the run's store."""
    server.put("configmaps", {"metadata": {"name": "rlhf-stack"}, "data": {"RLHF_STORE": run.store.root}})
