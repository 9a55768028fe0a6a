"""The cluster that the other tests stand on: what a run's namespace allows, and what it is given."""

from __future__ import annotations

import pytest
from kubernetes.client.exceptions import ApiException

from tests.cluster.conftest import PYTHON_IMAGE
from tests.support.cluster import pod

STORE = """
import os
from urllib.parse import urlsplit
from minio import Minio
client = Minio(
    urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc,
    os.environ["AWS_ACCESS_KEY_ID"],
    os.environ["AWS_SECRET_ACCESS_KEY"],
    secure=False,
)
bucket = os.environ["RLHF_STORE"].removeprefix("s3://")
client.fput_object(bucket, "seen/by-pod", "/etc/hostname")
import components, torch
print(len(list(client.list_objects(bucket, recursive=True))), components.__path__[0], torch.__version__)
"""


def test_a_restricted_namespace_runs_a_plain_pod_and_refuses_the_host(cluster, namespace):
    command = ["python3", "-c", "import os; print(os.getuid(), os.environ['RLHF_STORE']); open('/tmp/x', 'w')"]
    result = cluster.run_pod(namespace, pod("plain", PYTHON_IMAGE, command))
    assert result.exit_code == 0, result
    assert result.log.startswith("1000 s3://test-")

    host = pod("host", PYTHON_IMAGE, command)
    host["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    with pytest.raises(ApiException, match="violates PodSecurity"):
        cluster.core.create_namespaced_pod(namespace, host)


def test_a_pod_writes_where_the_test_reads(cluster, namespace, bucket, lent):
    result = cluster.run_pod(namespace, lent.to(pod("writer", "", ["python3", "-c", STORE])))
    assert result.exit_code == 0, result.log
    assert result.log.split()[:2] == ["1", "/lent/tree/components"]
    assert bucket.client().stat_object(bucket.name, "seen/by-pod").size > 0


def test_a_user_sees_no_other_bucket(minio, bucket):
    other = minio.make_bucket()
    try:
        with pytest.raises(Exception, match="Access Denied"):
            list(bucket.client().list_objects(other.name))
    finally:
        minio.remove_bucket(other)


@pytest.mark.parametrize(
    ("account", "verb", "resource", "allowed"),
    [
        ("rlhf-launcher", "create", "pytorchjobs.kubeflow.org", True),
        ("rlhf-launcher", "get", "pods/log", True),
        ("rlhf-launcher", "delete", "pods", False),
        ("rlhf-launcher", "list", "secrets", False),
        ("rlhf-stage", "get", "pods", False),
        ("rlhf-stage", "get", "secrets", False),
    ],
)
def test_accounts_may_do_what_their_work_needs(cluster, namespace, account, verb, resource, allowed):
    assert cluster.may(namespace, account, verb, resource) is allowed


def test_the_node_offers_four_t4s(cluster):
    nodes = cluster.core.list_node(label_selector="nvidia.com/gpu.product=Tesla-T4").items
    assert [node.status.allocatable["nvidia.com/gpu"] for node in nodes] == ["4"]


def test_data_outlive_a_restart_of_the_store(minio, bucket):
    bucket.client().fput_object(bucket.name, "kept", __file__)
    minio.scale(0)
    minio.scale(1)
    assert bucket.client().stat_object(bucket.name, "kept").size > 0
