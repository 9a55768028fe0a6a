"""The pipeline on a real Kubeflow Pipelines that our chart installs: `make test-kfp`.

Its images come from archives in the folder RLHF_KFP_IMAGES, or, with RLHF_KFP_IMAGES=pull, from their registries. The
tests share one release; the later ones find what the first run has made and go on from there.
"""

from __future__ import annotations

import json
import os
import secrets
import time

import pytest

from components.common.flows import flow_steps
from pipelines.tasks import RETRIES
from tests.cluster.conftest import PYTHON_IMAGE, REGISTRY
from tests.support.cluster import wait_until
from tests.support.commands import ROOT, kfp, rlhf
from tests.support.kfp_release import VARIABLE, load_images, running_pipelines, write_short_config
from tests.support.kfp_runs import run_id
from tests.support.release_jobs import pytorchjob
from tests.support.releases import DEFINITION

pytestmark = pytest.mark.skipif(
    not os.environ.get(VARIABLE),
    reason=f"{VARIABLE} is not set: a folder with archives of Kubeflow Pipelines' images, or pull",
)

STEPS = flow_steps("rlhf")
STAGES = ("pretrain", "sft", "reward", "rl")
PRESET = f"preset={ROOT / 'tests/support/toy.yaml'}"
# Enough to be found at work, whatever the machine.
ENDLESS = "sft.max_steps=1000000"
CANCEL_SECONDS, TERMINATE_SECONDS = 5, 20


@pytest.fixture(scope="module")
def pipelines(cluster):
    """A release with MinIO, Kubeflow Pipelines and our own parts."""
    load_images(cluster)
    with running_pipelines(cluster, f"rlhf-test-{secrets.token_hex(3)}", PYTHON_IMAGE, REGISTRY) as made:
        yield made


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Short stages, one CPU process each, whose image is a small one with our packages lent to it."""
    return write_short_config(tmp_path_factory.mktemp("kfp") / "short.yaml", PYTHON_IMAGE, gpus_per_node=0)


@pytest.fixture(scope="module")
def submit(pipelines, config):
    """Starts the pipeline as a person does; returns what the command did."""

    def start(*arguments, timeout=600):
        return kfp(
            *("run", "submit", "-n", pipelines.namespace, "pipelines/rlhf.py", PRESET, f"config={config}"),
            *arguments,
            timeout=timeout,
        )

    return start


@pytest.fixture(scope="module")
def finished(pipelines, submit):
    """A run of the whole pipeline, waited for; its id."""
    result = submit("-w", timeout=3000)
    run = run_id(result.stdout)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{pipelines.told(run)}"
    assert result.stdout.rstrip().endswith("SUCCEEDED")
    return run


@pytest.fixture(scope="module")
def begin(pipelines, finished, submit):
    """Starts a run whose sft step is not done yet; returns its id and the step's job, once that trains."""

    def start(*settings):
        result = submit(*settings, "sft.logging_steps=1")
        assert result.returncode == 0, result.stderr
        run = run_id(result.stdout)
        pipelines.wait_for_log(run, "sft", "sft step ")  # not the first, where it goes on from another's checkpoint
        (job,) = pipelines.jobs(run)
        return run, job

    return start


@pytest.fixture
def training(pipelines, begin):
    """A run whose sft step trains, and would for days; its id."""
    run, _ = begin(ENDLESS)
    yield run
    if pipelines.jobs(run):
        rlhf("cancel", run, "-n", pipelines.namespace)


def test_what_is_installed_passes_its_own_test(pipelines):
    said = pipelines.release.helm("test", "--logs", timeout="10m")
    for line in ("can be written and read", "Kubeflow Pipelines", "webhook answers", "a step ran in"):
        assert line in said


def test_a_run_does_every_step_and_leaves_its_results_in_the_store(pipelines, finished):
    steps = pipelines.steps(finished)
    assert {name: record.state for name, record in steps.items()} == dict.fromkeys(STEPS, "done")
    with pipelines.record(finished) as run:
        for stage in STAGES:
            key = steps[stage].uri.rsplit("/", 1)[-1]
            assert run.store.exists(f"artifacts/{stage}/{key}/manifest.json"), steps[stage]
            assert run.store.files(f"work/{stage}/{key}/{finished}/logs")
        assert finished in run.store.read(f"runs/{finished}/report/index.html").decode()
    assert pipelines.jobs(finished) == []


def test_metrics_report_and_models_are_registered_on_the_run(pipelines, finished):
    found = pipelines.registered(finished)
    steps = pipelines.steps(finished)
    models = {artifact.properties["uri"]: artifact for artifact in found if artifact.type == "system.Model"}
    for name in (*STAGES, *(f"merge-{stage}" for stage in STAGES)):
        assert steps[name].uri in models, models.keys()
    metrics = [artifact for artifact in found if artifact.type == "system.Metrics"]
    assert len(metrics) == len(STAGES) + 1  # evaluate's, too
    assert all(any("after" in name for name in artifact.properties) for artifact in metrics), metrics
    (page,) = (artifact for artifact in found if artifact.type == "system.HTML")
    bucket, _, path = page.uri.removeprefix("minio://").partition("/")
    with pipelines.record(finished) as run:
        assert run.store.root == f"s3://{bucket}"
        assert finished in run.store.read(path).decode()


def test_status_and_logs_know_the_run(pipelines, finished):
    where = ("-n", pipelines.namespace)
    status = rlhf("status", finished, *where)
    assert status.returncode == 0, status.stderr
    assert [line.split()[:2] for line in status.stdout.splitlines()[1:]] == [[step, "done"] for step in STEPS]
    logs = rlhf("logs", "sft", "--run", finished, *where)
    assert "sft step 4/4" in logs.stdout, logs.stderr
    assert pipelines.step_log(finished, "sft").count("sft step 4/4") == 1  # the step prints what its job does


def test_a_second_run_uses_what_the_first_has_made(pipelines, finished, submit):
    result = submit("-w", "rl.learning_rate=1e-3", timeout=1500)
    run = run_id(result.stdout)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{pipelines.told(run)}"
    states = {name: record.state for name, record in pipelines.steps(run).items()}
    anew = ("prepare", "rl", "merge-rl", "evaluate", "report")
    assert states == {step: "done" if step in anew else "reused" for step in STEPS}


def test_a_run_outlives_restarts_of_the_api_server_and_of_the_controller(pipelines, begin):
    run, job = begin("sft.learning_rate=2e-3", "sft.max_steps=40")
    pipelines.restart("kfp-api-server")
    pipelines.restart("kfp-argo")
    assert pipelines.wait_for_end(run, 1500) == "SUCCEEDED", pipelines.told(run)
    assert pipelines.steps(run)["sft"].state == "done"
    assert len(pipelines.pods(f"pipeline/runid={run},rlhf-stack/step=sft")) == 1  # no step was tried again
    assert pipelines.step_log(run, "sft").count(f"job {job['metadata']['name']} in namespace") == 1


def test_a_step_that_is_evicted_is_tried_again_and_takes_up_its_job(pipelines, begin):
    """As by `kubectl drain`: an exit is tried again, a pod that Argo finds gone is not, so it must see the exit."""
    run, job = begin("sft.learning_rate=3e-3", "sft.max_steps=1500")  # longer than it takes to make another pod
    (pod,) = pipelines.pods(f"pipeline/runid={run},rlhf-stack/step=sft")
    pipelines.evict(pod.metadata.name)
    pipelines.wait_for_log(run, "sft", f"goes on with job {job['metadata']['name']}")
    assert [same["metadata"]["uid"] for same in pipelines.jobs(run)] == [job["metadata"]["uid"]]
    assert pipelines.wait_for_end(run, 1500) == "SUCCEEDED", pipelines.told(run)
    assert pipelines.steps(run)["sft"].state == "done"
    assert pipelines.jobs(run) == []


def test_a_failed_stage_fails_the_run_and_says_why(pipelines, finished, submit):
    result = submit("-w", "sft.train_batch_size=3", "launcher.nproc_per_node=2", timeout=1500)
    run = run_id(result.stdout)
    assert result.returncode == 1, f"{result.stdout}\n{result.stderr}"
    assert result.stdout.rstrip().endswith("FAILED")
    sentence = "train_batch_size 3 cannot be shared by 2 processes"
    pods = pipelines.pods(f"pipeline/runid={run},rlhf-stack/step=sft")
    assert len(pods) == 1 + RETRIES, pipelines.told(run)
    for pod in pods:
        assert sentence in pipelines.cluster.log(pipelines.namespace, pod.metadata.name, container="main")
    assert sentence in rlhf("status", run, "-n", pipelines.namespace).stdout
    assert pipelines.jobs(run) == []
    states = {name: record.state for name, record in pipelines.steps(run).items()}
    assert states["sft"] == "failed"
    assert "merge-sft" not in states


def test_rlhf_cancel_leaves_no_job(pipelines, training):
    shown = rlhf("status", training, "-n", pipelines.namespace).stdout
    (job,) = pipelines.jobs(training)
    assert job["metadata"]["name"] in shown
    assert job["metadata"]["ownerReferences"][0]["uid"] == pipelines.workflow(training)["metadata"]["uid"]
    began = time.monotonic()
    result = rlhf("cancel", training, "-n", pipelines.namespace)
    assert result.returncode == 0, result.stderr
    wait_until(lambda: not pipelines.jobs(training), CANCEL_SECONDS, "no job is left")
    assert time.monotonic() - began < CANCEL_SECONDS
    assert pipelines.wait_for_end(training, 180) == "FAILED"  # that is how Argo ends it
    assert "CANCELING" in pipelines.history(training)
    assert "cancelled" in rlhf("status", training, "-n", pipelines.namespace).stdout.splitlines()[0]


def test_terminating_the_run_leaves_no_job(pipelines, training):
    began = time.monotonic()
    pipelines.client.terminate_run(training)
    wait_until(lambda: not pipelines.jobs(training), TERMINATE_SECONDS, "no job is left")
    assert time.monotonic() - began < TERMINATE_SECONDS
    assert pipelines.wait_for_end(training, 180) == "FAILED"
    shown = rlhf("status", training, "-n", pipelines.namespace).stdout.splitlines()
    states = {line.split()[0]: line.split()[1] for line in shown[1:] if not line.startswith(" ")}
    assert states["sft"] == "stopped", shown
    assert "workflow Failed" in shown[0]


def test_the_reaper_takes_the_job_that_outlived_its_workflow_and_no_other(pipelines, finished, training):
    workflow = pipelines.workflow(finished)["metadata"]
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": workflow["name"], "uid": workflow["uid"]}
    lost = pytorchjob(pipelines.release, "lost", ["sleep", "600"])
    lost["metadata"]["ownerReferences"] = [owner]
    pipelines.cluster.create(lost, namespace=pipelines.namespace)
    assert pipelines.reap() == f"deleted lost: its workflow {workflow['name']} is Succeeded\n"
    names = [job["metadata"]["name"] for job in pipelines.cluster.pytorchjobs(pipelines.namespace)]
    assert names == [job["metadata"]["name"] for job in pipelines.jobs(training)]
    assert len(names) == 1


def test_a_deleted_run_takes_its_jobs_along(pipelines, training):
    pipelines.client.delete_run(training)
    wait_until(lambda: not pipelines.jobs(training), TERMINATE_SECONDS, "no job is left")
    wait_until(lambda: not pipelines.pods(f"rlhf-stack/run={training}"), 60, "no pod of a job is left")


def test_a_compiled_pipeline_is_taken_by_the_stock_command(pipelines, finished, config, tmp_path):
    package = tmp_path / "rlhf.yaml"
    compiled = kfp("dsl", "compile", "--py", "pipelines/rlhf.py", "--output", str(package), RLHF_IMAGE=PYTHON_IMAGE)
    assert compiled.returncode == 0, compiled.stderr
    given = (f"preset={(ROOT / 'tests/support/toy.yaml').read_text()}\n", f"config={config.read_text()}")
    created = kfp(
        *("-n", pipelines.namespace, "run", "create", "-e", "rlhf", "-r", "stock", "-f", str(package)),
        *(given),
    )
    assert created.returncode == 0, created.stderr
    listed = pipelines.client.list_runs(sort_by="created_at desc", page_size=1).runs[0]
    assert pipelines.wait_for_end(listed.run_id, 1500) == "SUCCEEDED", pipelines.told(listed.run_id)
    states = {name: record.state for name, record in pipelines.steps(listed.run_id).items()}
    assert states["rl"] == "reused", json.dumps(states)


def test_uninstalling_leaves_what_is_marked_keep(pipelines, finished):
    kept = {("persistentvolumeclaim", name) for name in ("rlhf-minio", "rlhf-kfp-database")}
    kept |= {("secret", name) for name in ("rlhf-minio-root", "rlhf-store", "rlhf-kfp-database")}
    assert {pair for pair in pipelines.release.kept() if pair[0] != DEFINITION} == kept
    pipelines.release.uninstall()
