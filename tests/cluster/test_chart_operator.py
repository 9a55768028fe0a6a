"""The chart's own training operator. There is one to a cluster, so the test cluster's steps aside for a while."""

import secrets
from contextlib import contextmanager

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from components.common.flows import flow_steps
from tests.cluster.conftest import PYTHON_IMAGE, REGISTRY, ROOT
from tests.support.cluster import wait_until
from tests.support.commands import rlhf
from tests.support.helm import CHART
from tests.support.kfp_release import write_short_config
from tests.support.release_jobs import pytorchjob, running_job
from tests.support.releases import DEFINITION, prepared

WEBHOOK = "validator.training-operator.kubeflow.org"
CERTIFICATE = "training-operator-webhook-cert"


@contextmanager
def stepping_aside(cluster):
    """Stops the operator in namespace kubeflow, if one is there, and takes its webhook away; both come back."""
    admission = client.AdmissionregistrationV1Api(cluster.api)
    try:
        webhook = admission.read_validating_webhook_configuration(WEBHOOK)
    except ApiException as error:
        if error.status != 404:
            raise
        yield
        return

    def scale(replicas):
        scaled = {"spec": {"replicas": replicas}}
        cluster.apps.patch_namespaced_deployment_scale("training-operator", "kubeflow", scaled)
        selector = "app.kubernetes.io/name=training-operator"

        def settled():
            ready = cluster.apps.read_namespaced_deployment("training-operator", "kubeflow").status.ready_replicas or 0
            return ready == replicas == len(cluster.core.list_namespaced_pod("kubeflow", label_selector=selector).items)

        wait_until(settled, 120, f"the test cluster's operator with {replicas} replicas")

    scale(0)
    admission.delete_validating_webhook_configuration(WEBHOOK)
    try:
        yield
    finally:
        metadata = client.V1ObjectMeta(name=WEBHOOK, labels=webhook.metadata.labels)
        admission.create_validating_webhook_configuration(
            client.V1ValidatingWebhookConfiguration(metadata=metadata, webhooks=webhook.webhooks)
        )
        scale(1)


@pytest.fixture(scope="module")
def release(cluster):
    """Operator, MinIO and our own parts; the tests below use it one after the other."""
    host, _, path = REGISTRY.partition("/")
    operator = {
        "image": {"registry": host, "repository": f"{path}/training-operator", "tag": "v1.9.4"},
        "initImage": {"registry": host, "repository": f"{path}/init", "tag": "1"},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
    }
    name = f"rlhf-test-{secrets.token_hex(3)}"
    values = {"trainingOperator": operator, "kfp": {"enabled": False}}
    with stepping_aside(cluster), prepared(cluster, name, PYTHON_IMAGE, REGISTRY, **values) as made:
        try:
            # The CRD is there, without being any release's.
            made.helm("install", "--wait", "--take-ownership", "--force-conflicts", chart=CHART)
            yield made
        finally:  # of a failed installation, too: its webhook would refuse every job of the cluster
            made.helm("uninstall", "--wait", "--ignore-not-found")


def succeeded(cluster, release, name):
    conditions = cluster.pytorchjob(release.namespace, name).get("status", {}).get("conditions") or []
    return any(seen["type"] == "Succeeded" and seen["status"] == "True" for seen in conditions)


def test_the_operator_is_ready_and_the_charts_test_passes(release):
    assert "Phase:          Succeeded" in release.helm("test", "--logs")


def test_workers_are_let_into_a_restricted_namespace(release, cluster):
    """Into their pods the operator puts a container of its own."""
    job = pytorchjob(release, "two", ["python", "-c", "print('well')"], workers=1)
    cluster.create(job, namespace=release.namespace)
    wait_until(lambda: succeeded(cluster, release, "two"), 180, f"two pods: {cluster.events(release.namespace)}")


def test_the_four_stages_run(release, tmp_path):
    """As a person runs them who has installed the chart without Kubeflow Pipelines: each a PyTorchJob with 4 GPUs."""
    config = write_short_config(tmp_path / "short.yaml", PYTHON_IMAGE, gpus_per_node=4)
    where = ("--on", "kubernetes", "-n", release.namespace)
    preset = str(ROOT / "tests/support/toy.yaml")
    result = rlhf("run", *where, "--run-id", "chart", "--preset", preset, "--config", str(config), timeout=1500)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{release.cluster.events(release.namespace)}"
    status = rlhf("status", "chart", "-n", release.namespace).stdout.splitlines()[1:]
    assert {line.split()[0]: line.split()[1] for line in status} == dict.fromkeys(flow_steps("rlhf"), "done")
    for stage in ("pretrain", "sft", "reward", "rl"):
        assert f"{stage} job rlhf-{stage}-" in result.stdout
    left = release.cluster.pytorchjobs(release.namespace)
    assert not [job for job in left if job["metadata"]["labels"]["rlhf-stack/run"] == "chart"]


def test_data_goes_in_and_comes_out_by_a_forwarded_port(release, tmp_path):
    """The store's address is known to the cluster alone."""
    where = ("--on", "kubernetes", "-n", release.namespace)
    (tmp_path / "sft.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    put = rlhf("put", *where, str(tmp_path / "sft.jsonl"))
    assert put.returncode == 0, put.stderr
    got = rlhf("get", *where, put.stdout.strip(), str(tmp_path / "got"))
    assert got.returncode == 0, got.stderr
    (file,) = (path for path in (tmp_path / "got").rglob("*.jsonl"))
    assert file.read_text() == (tmp_path / "sft.jsonl").read_text()


def test_an_upgrade_that_replaces_the_operator_keeps_its_certificate_and_running_jobs(release, cluster):
    running_job(release, "sleeper", 60)
    before = cluster.core.read_namespaced_pod("sleeper-master-0", release.namespace).metadata.uid
    certificate = release.secret(CERTIFICATE)
    assert certificate

    release.upgrade(trainingOperator={"allNamespaces": False, "resources": {"limits": {"memory": "256Mi"}}})

    assert release.secret(CERTIFICATE) == certificate
    assert cluster.core.read_namespaced_pod("sleeper-master-0", release.namespace).metadata.uid == before
    wait_until(lambda: succeeded(cluster, release, "sleeper"), 180, "the job's end seen by the new operator")
    assert "Phase:          Succeeded" in release.helm("test", "--logs")


def test_uninstalling_leaves_what_is_marked_keep(release, cluster):
    assert (DEFINITION, "pytorchjobs.kubeflow.org") in release.kept()
    release.uninstall()
    assert cluster.pytorchjob(release.namespace, "sleeper")  # the person's own jobs stay
