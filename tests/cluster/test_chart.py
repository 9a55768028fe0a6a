"""Our chart in a namespace that enforces `restricted`, on a cluster that has the training operator already."""

import base64
import secrets

import pytest

from tests.cluster.conftest import PYTHON_IMAGE, REGISTRY
from tests.support.helm import CHART
from tests.support.release_jobs import running_job
from tests.support.releases import next_version, prepared

CLIENT = """
import io, os
from minio import Minio
store = Minio(
    endpoint=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"),
    access_key=os.environ["AWS_ACCESS_KEY_ID"], secret_key=os.environ["AWS_SECRET_ACCESS_KEY"], secure=False,
)
"""
PUT = CLIENT + 'store.put_object(bucket_name="rlhf", object_name="a/model", data=io.BytesIO(b"weights"), length=7)'
GET = CLIENT + 'print(store.get_object(bucket_name="rlhf", object_name="a/model").read().decode())'
OTHERS = (
    CLIENT
    + """
from minio.error import S3Error
try:
    store.make_bucket(bucket_name="mine")
except S3Error as error:
    print(error.code)
"""
)
SECRETS = ("rlhf-store", "rlhf-minio-root")


@pytest.fixture(scope="module")
def release(cluster):
    """MinIO and our own parts; the tests below use it one after the other."""
    values = {"trainingOperator": {"enabled": False, "installCRD": False}, "kfp": {"enabled": False}}
    with prepared(cluster, f"rlhf-test-{secrets.token_hex(3)}", PYTHON_IMAGE, REGISTRY, **values) as made:
        made.helm("install", "--wait", chart=CHART)
        yield made


def test_what_is_installed_is_ready_and_passes_its_own_test(release, cluster):
    ready = cluster.apps.read_namespaced_deployment("rlhf-minio", release.namespace).status.ready_replicas
    assert ready == 1
    said = release.helm("test", "--logs", timeout="5m")
    assert "Phase:          Succeeded" in said
    for line in ("can be written and read", "PyTorchJobs can be listed", "webhook answers", "a step ran in"):
        assert line in said


def test_a_second_training_operator_is_refused_with_a_sentence(release):
    with pytest.raises(AssertionError, match="there can be one: set trainingOperator"):
        release.upgrade(trainingOperator={"enabled": True})


def test_the_pipelines_user_may_use_its_bucket_and_nothing_else(release):
    assert release.python("others", OTHERS) == "AccessDenied"


def test_the_launcher_may_do_what_it_does_and_no_more(release, cluster):
    allowed = ("create pytorchjobs.kubeflow.org", "delete jobs.batch", "get pods/log", "create secrets")
    refused = ("list secrets", "create pods", "get nodes", "create pods/exec", "update configmaps")
    for wanted, answer in ((allowed, True), (refused, False)):
        for verb, resource in (pair.split() for pair in wanted):
            assert cluster.may(release.namespace, "rlhf-launcher", verb, resource) is answer, resource


def test_an_upgrade_keeps_credentials_data_and_running_jobs(release, cluster, tmp_path):
    release.python("put", PUT)
    before = {name: release.secret(name) for name in SECRETS}
    job = running_job(release, "sleeper", 300)
    pod = cluster.core.read_namespaced_pod("sleeper-master-0", release.namespace)

    release.upgrade(next_version(tmp_path), minio={"resources": {"limits": {"memory": "1Gi"}}})

    assert {name: release.secret(name) for name in SECRETS} == before
    assert release.python("get", GET) == "weights"
    assert cluster.pytorchjob(release.namespace, "sleeper")["metadata"]["uid"] == job["metadata"]["uid"]
    now = cluster.core.read_namespaced_pod("sleeper-master-0", release.namespace)
    assert (now.metadata.uid, now.status.phase) == (pod.metadata.uid, "Running")
    assert now.status.container_statuses[0].restart_count == 0


def test_a_new_key_in_the_secret_takes_effect_with_an_upgrade(release, cluster):
    key = base64.b64encode(secrets.token_hex(20).encode()).decode()
    cluster.core.patch_namespaced_secret("rlhf-store", release.namespace, {"data": {"AWS_SECRET_ACCESS_KEY": key}})
    release.upgrade()
    assert release.secret("rlhf-store")["AWS_SECRET_ACCESS_KEY"] == key
    assert release.python("get-anew", GET) == "weights"


def test_uninstalling_leaves_what_is_marked_and_a_new_install_finds_it(release):
    before = {name: release.secret(name) for name in SECRETS}
    assert release.kept() == {("persistentvolumeclaim", "rlhf-minio"), *(("secret", name) for name in SECRETS)}
    release.uninstall()

    release.helm("install", "--wait", chart=CHART)
    assert {name: release.secret(name) for name in SECRETS} == before
    assert release.python("get-again", GET) == "weights"
