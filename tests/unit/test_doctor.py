"""`rlhf doctor` on a fake API server: each thing that a run needs taken away in turn is found, with its remedy."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from components.launcher.rules import RULES, role_rules
from pipelines.doctor import examination, here
from pipelines.doctor.examination import Wanted, as_dict, as_text, examine_all
from pipelines.doctor.stored import check_store
from tests.support.commands import ROOT, rlhf
from tests.support.namespaces import _RULES

NS = "/api/v1/namespaces/rlhf"
NODE = {
    "metadata": {"name": "gpu-1", "labels": {"nvidia.com/gpu.product": "Tesla-T4"}},
    "spec": {},
    "status": {"allocatable": {"nvidia.com/gpu": "4"}, "images": None},
}
POD = {
    "metadata": {"name": "other"},
    "spec": {"nodeName": "gpu-1", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "3"}}}]},
    "status": {"phase": "Running"},
}
DEPLOYMENT = {"metadata": {"name": "training-operator", "namespace": "kubeflow"}, "status": {"readyReplicas": 1}}


class Api:
    """Answers GET by path, and every review of our rights by `refused`."""

    def __init__(self):
        named = {"metadata": {"name": "x"}}
        self.answers = {
            "/version": {},
            "/apis/kubeflow.org/v1": {"resources": [{"name": "pytorchjobs"}]},
            "/apis/apps/v1/deployments": {"items": [DEPLOYMENT]},
            NS: {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
            f"{NS}/serviceaccounts/rlhf-launcher": named,
            f"{NS}/serviceaccounts/rlhf-stage": named,
            f"{NS}/configmaps/rlhf-stack": {"data": {}},
            f"{NS}/secrets/rlhf-store": {"data": {}},
            f"{NS}/resourcequotas": {"items": []},
            f"{NS}/limitranges": {"items": []},
            "/api/v1/nodes": {"items": [NODE]},
            "/api/v1/pods": {"items": []},
            "/api/v1/services": {"items": [{"metadata": {"name": "ml-pipeline", "namespace": "kfp"}}]},
            "/api/v1/namespaces/kfp/services/ml-pipeline:8888/proxy/apis/v2beta1/healthz": {"multi_user": False},
        }
        self.refused: set[tuple[str, str]] = set()
        self.reviewed: list[tuple[str, str, str]] = []
        handler = type("Handler", (_Handler,), {"api": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def kubeconfig(self, folder):
        server = f"http://127.0.0.1:{self.http.server_address[1]}"
        path = folder / "kubeconfig"
        fields = {
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "rlhf"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **fields}))
        return str(path)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args):
        pass

    def do_GET(self):
        found = self.api.answers.get(self.path.partition("?")[0], 404)
        self._answer(found if isinstance(found, int) else 200, {"message": "no"} if isinstance(found, int) else found)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, [asked["resource"], asked["subresource"]]))
        self.api.reviewed.append((asked["group"], resource, asked["verb"]))
        self._answer(201, {"status": {"allowed": (resource, asked["verb"]) not in self.api.refused}})

    def _answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


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


def test_a_store_that_cannot_be_written_fails_and_nothing_is_left_in_one_that_can(tmp_path):
    store = tmp_path / "store"

    def look():
        (found,) = check_store(str(store))
        return found

    assert "will be made" in look().what
    assert not store.exists()
    store.mkdir()
    assert look().state == "ok"
    assert [path for path in store.rglob("*") if path.is_file()] == []
    (store / "runs").rmdir()
    (store / "runs").write_text("in the way")
    assert look().state == "failed"


def test_a_cluster_that_does_not_answer_is_one_finding(tmp_path, monkeypatch):
    api = Api()
    monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
    api.http.shutdown()
    api.http.server_close()
    found = examine_all(Wanted(store=str(tmp_path)))
    assert [(finding.name, finding.state) for finding in found.cluster] == [("cluster", "failed")]
    assert not found.passed


def test_without_a_kubeconfig_only_this_machine_is_looked_at(tmp_path):
    result = rlhf("doctor", "--store", str(tmp_path), KUBECONFIG="", HOME=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "cluster: no kubeconfig" in result.stdout
    assert "store" in result.stdout


def test_findings_as_json_and_the_exit_code(api, tmp_path, monkeypatch):
    api.refused.add(("secrets", "create"))
    result = rlhf("doctor", "--json", "--store", str(tmp_path))
    assert result.returncode == 2, result.stderr
    found = json.loads(result.stdout)
    assert found["passed"] is False
    assert [f["name"] for f in found["cluster"] if f["state"] == "failed"] == ["rights"]
    assert "manifests/base/rbac.yaml" in next(f["remedy"] for f in found["cluster"] if f["name"] == "rights")


def test_the_stock_kfp_is_told_from_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(here.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "kfp").write_text("from kfp.cli.__main__ import main")
    (tmp_path / "kfp").chmod(0o755)
    assert next(here.check_kfp()).state == "warning"
    (tmp_path / "kfp").write_text("from pipelines.cli.kfp_command import main")
    assert next(here.check_kfp()).state == "ok"


def test_a_package_of_another_version_is_named(monkeypatch):
    version = here.metadata.version
    monkeypatch.setattr(here.metadata, "version", lambda name: "0.1" if name == "numpy" else version(name))
    found = {finding.name: finding for finding in here.check_packages()}
    assert (found["packages"].state, "numpy 0.1 is not" in found["packages"].what) == ("failed", True)


def test_remedies_are_shown_below_what_is_wrong():
    bad = examination.Finding("nodes", "failed", "none", "add some")
    shown = as_text(examination.Examination((examination.Finding("Python", "ok", "3.11"),), (bad,)))
    assert shown.splitlines()[-2:] == ["  FAIL  nodes   none", "                → add some"]
    assert as_dict(examination.Examination((), (bad,)))["passed"] is False


def test_the_rules_are_those_of_the_chart_and_of_the_cluster_tests():
    chart = (ROOT / "charts/rlhf-stack/templates/accounts/launcher.yaml").read_text()
    rules = chart[chart.index("rules:") : chart.index("---", chart.index("rules:"))]
    plain = "\n".join(line for line in rules.splitlines() if "{{" not in line)
    granted = _rights(yaml.safe_load(plain)["rules"])
    ours = _rights(role_rules())
    assert ours <= granted
    assert {resource for _, resource, _ in granted - ours} <= {"workflows", "workflowtaskresults"}
    assert ours == _rights(_RULES)


def _rights(rules):
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
