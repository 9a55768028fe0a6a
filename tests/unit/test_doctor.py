"""`rlhf doctor` on a fake API server: each thing that a run needs taken away in turn is found, with its remedy."""

from __future__ import annotations

import json

import pytest

from components.launcher.rules import RULES
from pipelines.doctor.examination import Wanted, examine_all
from tests.support.commands import rlhf
from tests.support.doctor_api import DEPLOYMENT, NODE, NS, POD, Api


@pytest.fixture
def api(tmp_path, monkeypatch):
    made = Api()
    monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
    monkeypatch.delenv("RLHF_STORE", raising=False)
    monkeypatch.delenv("RLHF_NAMESPACE", raising=False)
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def look(api, tmp_path):
    """Examines, and gives what was found on the cluster by name."""

    def look(**wanted):
        found = examine_all(Wanted(store=str(tmp_path / "store"), **wanted))
        return {finding.name: finding for finding in found.cluster}

    return look


def test_a_cluster_that_has_everything_passes(look, api):
    found = look()
    assert {finding.state for name, finding in found.items() if name not in ("images", "store")} == {"ok"}
    assert "which pods do not see" in found["store"].what
    assert found["pipelines"].what == "answers in namespace kfp"
    assert found["nodes"].what == "1 with 4 or more nvidia.com/gpu, 1 of them T4"
    assert set(api.reviewed) == {(g, r, v) for g, resources, verbs in RULES for r in resources for v in verbs}


def answer(path, content):
    return lambda api: api.answers.__setitem__(path, content)


def node(**changes):
    return answer("/api/v1/nodes", {"items": [{**NODE, **changes}]})


TAINT = {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]}
QUOTA = {
    "metadata": {"name": "team"},
    "status": {"hard": {"requests.nvidia.com/gpu": "4"}, "used": {"requests.nvidia.com/gpu": "2"}},
}
LIMIT = {"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"nvidia.com/gpu": "2"}}]}}


def quota(name, hard, used):
    status = {"hard": {name: hard}, "used": {name: used}}
    return answer(f"{NS}/resourcequotas", {"items": [{"metadata": {"name": "team"}, "status": status}]})


def limit(kind, **most):
    item = {"metadata": {"name": "small"}, "spec": {"limits": [{"type": kind, "max": most}]}}
    return answer(f"{NS}/limitranges", {"items": [item]})


BROKEN = {
    "no CRD": (answer("/apis/kubeflow.org/v1", 404), "CRD", "failed", "knows no PyTorchJob"),
    "no operator": (answer("/apis/apps/v1/deployments", {"items": []}), "operator", "failed", "no Deployment"),
    "operator not ready": (
        answer("/apis/apps/v1/deployments", {"items": [{**DEPLOYMENT, "status": {}}]}),
        "operator",
        "failed",
        "kubeflow/training-operator is not ready",
    ),
    "operator unseen": (answer("/apis/apps/v1/deployments", 403), "operator", "warning", "may not look"),
    "no right": (lambda api: api.refused.add(("pods/log", "get")), "rights", "failed", "we may not get pods/log"),
    "no namespace": (answer(NS, 404), "namespace", "failed", "there is no rlhf"),
    "not restricted": (answer(NS, {"metadata": {}}), "pod security", "warning", "none is enforced"),
    "no account": (answer(f"{NS}/serviceaccounts/rlhf-stage", 404), "objects", "failed", "account rlhf-stage missing"),
    "no secret": (answer(f"{NS}/secrets/rlhf-store", 404), "objects", "failed", "Secret rlhf-store missing"),
    "quota": (answer(f"{NS}/resourcequotas", {"items": [QUOTA]}), "quota", "failed", "team: 2 of 4"),
    **{
        f"quota of {name}": (
            quota(name, hard, used),
            "quota",
            "failed",
            f"team: {used} of {hard} {name} are used, {needed}",
        )
        for name, hard, used, needed in (
            ("pods", "2k", "2k", "1"),
            ("requests.memory", "64Gi", "17Gi", "48Gi"),
            ("limits.memory", "16Gi", "0", "48Gi"),
            ("memory", "50000M", "0", "48Gi"),
            ("requests.cpu", "2", "0", "4"),
            ("cpu", "4500m", "600m", "4"),
            ("count/pytorchjobs.kubeflow.org", "1", "1", "1"),
        )
    },
    "memory limit": (limit("Pod", memory="32Gi"), "quota", "failed", "small: at most 32Gi memory for each pod"),
    "core limit": (limit("Container", cpu="3500m"), "quota", "failed", "at most 3500m cpu for each container"),
    "limit": (answer(f"{NS}/limitranges", {"items": [LIMIT]}), "quota", "failed", "at most 2 nvidia.com/gpu"),
    "no GPUs": (node(status={}), "nodes", "failed", "none of 1 has nvidia.com/gpu"),
    "too few GPUs": (
        node(status={"allocatable": {"nvidia.com/gpu": "1"}}),
        "nodes",
        "failed",
        "has 1 nvidia.com/gpu, 4",
    ),
    "taint": (node(spec=TAINT), "nodes", "failed", "taint nvidia.com/gpu=present:NoSchedule"),
    "cordoned": (node(spec={"unschedulable": True}), "nodes", "failed", "is cordoned"),
    "no T4": (node(metadata={"name": "n", "labels": {}}), "nodes", "warning", "0 of them T4"),
    "busy": (answer("/api/v1/pods", {"items": [POD]}), "free GPUs", "warning", "1 on gpu-1"),
    "no pipelines": (answer("/api/v1/services", {"items": []}), "pipelines", "warning", "no Service ml-pipeline"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_missing_is_found_with_its_remedy(look, api, name):
    take_away, finding, state, words = BROKEN[name]
    take_away(api)
    found = look()[finding]
    assert (found.state, words in found.what) == (state, True), found
    assert found.remedy


def test_quotas_and_limits_that_leave_room_pass(look, api):
    wide = {"pods": "2k", "requests.memory": "96Gi", "limits.memory": "1Ti", "cpu": "8", "requests.nvidia.com/gpu": "4"}
    used = {"pods": "1999", "requests.memory": "48Gi", "cpu": "4000m"}
    item = {"metadata": {"name": "team"}, "status": {"hard": wide, "used": used}}
    answer(f"{NS}/resourcequotas", {"items": [item]})(api)
    limit("Container", memory="48Gi", cpu="4")(api)
    assert (look()["quota"].state, look()["quota"].what) == ("ok", "leaves room")
    limit("PersistentVolumeClaim", memory="1Gi")(api)
    assert look()["quota"].state == "ok"


def test_a_placement_brings_its_tolerations_and_its_selector(look, api):
    node(spec=TAINT)(api)
    assert look(placement="gpu-operator")["nodes"].state == "ok"
    assert "no label cloud.google.com/gke-accelerator" in look(placement="gke")["nodes"].what


def test_jobs_that_have_ended_hold_no_gpus(look, api):
    api.answers["/api/v1/pods"] = {"items": [{**POD, "status": {"phase": "Succeeded"}}]}
    assert look()["free GPUs"].state == "ok"


def test_an_image_is_known_by_its_name_on_a_node(look, api, monkeypatch):
    monkeypatch.setenv("RLHF_IMAGE", "example/all:1")
    assert "example/all:1" in look()["images"].what
    node(status={**NODE["status"], "images": [{"names": ["example/all:1"]}]})(api)
    assert look()["images"].state == "ok"


def test_a_cluster_that_does_not_answer_is_one_finding(tmp_path, monkeypatch):
    api = Api()
    monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
    api.http.shutdown()
    api.http.server_close()
    found = examine_all(Wanted(store=str(tmp_path)))
    assert [(finding.name, finding.state) for finding in found.cluster] == [("cluster", "failed")]
    assert not found.passed


def test_findings_as_json_and_the_exit_code(api, tmp_path, monkeypatch):
    api.refused.add(("secrets", "create"))
    result = rlhf("doctor", "--json", "--store", str(tmp_path))
    assert result.returncode == 2, result.stderr
    found = json.loads(result.stdout)
    assert found["passed"] is False
    assert [f["name"] for f in found["cluster"] if f["state"] == "failed"] == ["rights"]
    assert "manifests/base/rbac.yaml" in next(f["remedy"] for f in found["cluster"] if f["name"] == "rights")
