"""What the pipeline finds where the chart is installed: settings, keys, rights, and Kubeflow Pipelines set to them."""

import json

import yaml

from tests.support.helm import NAMESPACE, render
from tests.support.rendered import arguments


def test_the_contract_with_the_pipeline(laptop):
    by_name = {(made["kind"], made["metadata"]["name"]): made for made in laptop}
    assert by_name["ConfigMap", "rlhf-stack"]["data"] == {
        "RLHF_STORE": "s3://rlhf",
        "AWS_ENDPOINT_URL": f"http://rlhf-minio.{NAMESPACE}.svc:9000",
        "AWS_REGION": "us-east-1",
        "RLHF_REGISTRY": "ghcr.io/rlhf-stack",
        "RLHF_VERSION": "0.1.0",
    }
    assert set(by_name["Secret", "rlhf-store"]["data"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert by_name["ServiceAccount", "rlhf-stage"]["automountServiceAccountToken"] is False
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in by_name["Role", "rlhf-launcher"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    work = {"create", "get", "list", "watch", "patch", "delete"}
    assert granted == {
        ("kubeflow.org", "pytorchjobs"): work,
        ("batch", "jobs"): work,
        ("", "pods"): {"get", "list", "watch"},
        ("", "pods/log"): {"get"},
        ("", "events"): {"get", "list", "watch"},
        ("", "secrets"): {"create", "get", "patch", "delete"},
        ("", "configmaps"): {"get"},
        ("argoproj.io", "workflowtaskresults"): {"create", "patch"},
        ("argoproj.io", "workflows"): {"get"},
    }


def test_kubeflow_pipelines_uses_our_store_and_our_account():
    objects = {(made["kind"], made["metadata"]["name"]): made for made in render("--set", "store.bucket=shared")}
    config = objects["ConfigMap", "kfp-launcher"]["data"]
    assert config["defaultPipelineRoot"] == "minio://shared/kfp"
    provider = yaml.safe_load(config["providers"])["minio"]["default"]
    assert provider["endpoint"] == f"rlhf-minio.{NAMESPACE}.svc:9000"
    assert provider["disableSSL"] is True
    assert provider["credentials"]["secretRef"]["secretName"] == "rlhf-store"
    (server,) = objects["Deployment", "ml-pipeline"]["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in server["env"]}
    assert variables["DEFAULTPIPELINERUNNERSERVICEACCOUNT"] == "rlhf-launcher"
    assert variables["OBJECTSTORECONFIG_HOST"] == f"rlhf-minio.{NAMESPACE}.svc"
    assert variables["OBJECTSTORECONFIG_PORT"] == "9000"
    assert variables["V2_LAUNCHER_IMAGE"] == "ghcr.io/kubeflow/kfp-launcher:2.17.0"
    argo = objects["ConfigMap", "workflow-controller-configmap"]["data"]
    assert set(argo) == {"workflowDefaults", "artifactRepository", "executor"}
    assert set(yaml.safe_load(argo["workflowDefaults"])["spec"]) == {"ttlStrategy"}  # no retryStrategy: see there
    assert yaml.safe_load(argo["artifactRepository"])["s3"]["bucket"] == "shared"
    assert yaml.safe_load(argo["executor"])["securityContext"]["runAsNonRoot"] is True


def test_a_store_of_your_own_is_spoken_to_over_tls():
    argo = ["--set", "kfp.enabled=true", *arguments("minimal")]
    objects = render(*argo, "--set", "kfp.enabled=true")
    (config,) = [made for made in objects if made["metadata"]["name"] == "kfp-launcher"]
    provider = yaml.safe_load(config["data"]["providers"])["minio"]["default"]
    assert provider["endpoint"] == "s3.eu-central-1.amazonaws.com:443"
    assert provider["disableSSL"] is False
    assert provider["region"] == "eu-central-1"


def test_an_operator_for_one_namespace_may_read_no_other():
    objects = render("--set", "trainingOperator.allNamespaces=false")
    by_name = {(made["kind"], made["metadata"]["name"]): made for made in objects}
    (rule,) = by_name["ClusterRole", "rlhf-training-operator"]["rules"]
    assert rule["resources"] == ["validatingwebhookconfigurations"]
    (container,) = by_name["Deployment", "training-operator"]["spec"]["template"]["spec"]["containers"]
    assert f"--namespace={NAMESPACE}" in container["args"]
    assert ("Role", "training-operator") in by_name


def test_no_role_but_the_operators_reaches_beyond_the_namespace(objects):
    beyond = {made["metadata"]["name"] for made in objects if made["kind"].startswith("Cluster")}
    assert beyond <= {"rlhf-training-operator"}


def test_steps_go_where_the_charts_own_pods_go_and_have_what_is_added():
    (config,) = [
        made
        for made in render(*arguments("everything"))
        if (made["kind"], made["metadata"]["name"]) == ("ConfigMap", "workflow-controller-configmap")
    ]
    spec = yaml.safe_load(config["data"]["workflowDefaults"])["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert [found["key"] for found in spec["tolerations"]] == ["dedicated"]
    assert spec["podPriorityClassName"] == "system-cluster-critical"
    (container,) = json.loads(spec["podSpecPatch"])["containers"]
    assert container["env"] == [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]
    assert "templateDefaults" not in spec  # see the template
