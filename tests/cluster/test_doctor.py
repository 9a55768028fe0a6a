"""`rlhf doctor` on the real cluster."""

from __future__ import annotations

import json

import pytest

from tests.cluster.conftest import REGISTRY, VERSION
from tests.support.cluster import wait_until
from tests.support.commands import rlhf

OURS = ("data", "dpo", "evaluate", "launcher", "pretrain", "reward", "rl", "sft")


def look(namespace, bucket, *arguments, **environment):
    """Findings on the cluster by name, and the exit code."""
    ours = {**bucket.settings(host=True), **bucket.secret(), **environment}
    result = rlhf("doctor", "-n", namespace, "--json", *arguments, **ours)
    assert result.stdout, result.stderr
    found = json.loads(result.stdout)
    return {finding["name"]: finding for finding in found["cluster"]}, result.returncode


def test_a_namespace_that_is_ready_passes(cluster, namespace, bucket):
    def gpus_are_free():
        return look(namespace, bucket)[0]["free GPUs"]["state"] == "ok"

    wait_until(gpus_are_free, 120, "pods of other tests are gone")
    found, code = look(namespace, bucket)
    assert code == 0, found
    ready = ("cluster", "CRD", "operator", "rights", "pod security", "objects", "quota", "nodes", "free GPUs")
    states = dict.fromkeys((*ready, "store", "keys"), "ok")
    # What the cluster may have or not, and a run can do without.
    images, wanted = images_of(cluster), {f"{REGISTRY}/{image}:{VERSION}" for image in OURS}
    states["images"] = "ok" if wanted <= images else "warning"
    pipelines = cluster.core.list_service_for_all_namespaces(field_selector="metadata.name=ml-pipeline").items
    states["pipelines"] = "ok" if pipelines else "warning"
    assert {name: finding["state"] for name, finding in found.items()} == states, found
    assert "1 of them T4" in found["nodes"]["what"]
    absent = sorted(wanted - images)
    of = f"{len(absent)} of {len(wanted)} on no node yet: {', '.join(absent)}"
    assert found["images"]["what"] == (of if absent else f"all {len(wanted)} are on a node")
    if not pipelines:
        assert found["pipelines"]["what"] == "there is no Service ml-pipeline"
    assert not list(bucket.client().list_objects(bucket.name, recursive=True))


def images_of(cluster):
    """Names of the images that the cluster's nodes say they have."""
    nodes = cluster.core.list_node().items
    return {name for node in nodes for image in node.status.images or [] for name in image.names or []}


def test_more_gpus_than_a_node_has_are_missed(namespace, bucket):
    found, code = look(namespace, bucket, "--gpus", "5")
    assert code == 2
    assert "has 4 nvidia.com/gpu, 5 are asked for" in found["nodes"]["what"]


def test_a_quota_and_a_missing_secret_are_found(cluster, namespace, bucket):
    quota = {"hard": {"requests.nvidia.com/gpu": "2"}}
    named = {"metadata": {"name": "small"}, "spec": quota}
    cluster.create({"apiVersion": "v1", "kind": "ResourceQuota", **named}, namespace=namespace)
    cluster.core.delete_namespaced_secret("rlhf-store", namespace)
    found, code = look(namespace, bucket)
    assert code == 2
    assert "small: 0 of 2 requests.nvidia.com/gpu" in found["quota"]["what"]
    assert "Secret rlhf-store missing" in found["objects"]["what"]


def test_a_wrong_key_to_the_store_is_said(namespace, bucket):
    found, code = look(namespace, bucket, AWS_SECRET_ACCESS_KEY="wrong")
    assert (code, found["store"]["state"]) == (2, "failed")


@pytest.mark.parametrize("name", ["absent/image:1"])
def test_an_image_that_cannot_be_pulled_is_named(cluster, namespace, bucket, name):
    found, code = look(namespace, bucket, "--pull", RLHF_IMAGE=name)
    refused = [finding for finding in found.values() if finding["name"].startswith("pull")]
    assert code == 2
    assert {finding["state"] for finding in refused} == {"failed"}
    assert all(name in finding["what"] for finding in refused)
    assert cluster.batch.list_namespaced_job(namespace).items == []
