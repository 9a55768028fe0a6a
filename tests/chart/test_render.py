"""Every kind of values, rendered: what is there, and whether Kubernetes would take it."""

import itertools

import pytest

from tests.support.helm import CHART, PACKAGES, helm, render
from tests.support.objects import mistakes
from tests.support.rendered import CASES, arguments, names

STORE = {("ConfigMap", "rlhf-stack"), ("ConfigMap", "rlhf-scripts"), ("Pod", "rlhf-smoke-test")}
ACCOUNTS = {
    ("ServiceAccount", "rlhf-stage"),
    ("ServiceAccount", "rlhf-launcher"),
    ("Role", "rlhf-launcher"),
    ("RoleBinding", "rlhf-launcher"),
}
MINIO = {
    ("Deployment", "rlhf-minio"),
    ("Service", "rlhf-minio"),
    ("PersistentVolumeClaim", "rlhf-minio"),
    ("Secret", "rlhf-minio-root"),
    ("Job", "rlhf-minio-setup"),
}
OPERATOR = {
    ("CustomResourceDefinition", "pytorchjobs.kubeflow.org"),
    ("Deployment", "training-operator"),
    ("Service", "training-operator"),
    ("ConfigMap", "training-operator-init-container"),
    ("Secret", "training-operator-webhook-cert"),
    ("ValidatingWebhookConfiguration", "validator.training-operator.kubeflow.org"),
    ("ServiceAccount", "training-operator"),
    ("ClusterRole", "rlhf-training-operator"),
    ("ClusterRoleBinding", "rlhf-training-operator"),
}
POLICIES = {("NetworkPolicy", name) for name in ("rlhf-minio", "training-operator", "rlhf-stages")}

_AGENT = "ml-pipeline-persistenceagent"
_ARGO = ("workflows", "workflowtemplates", "clusterworkflowtemplates", "cronworkflows", "workflowtasksets")
_ARGO += ("workflowtaskresults", "workflowartifactgctasks", "workfloweventbindings")
_NAMES = {
    "Deployment": ("ml-pipeline", _AGENT, "workflow-controller", "metadata-grpc", "rlhf-kfp-database"),
    "Service": ("ml-pipeline", "metadata-grpc-service", "rlhf-kfp-database"),
    "ConfigMap": ("rlhf-kfp-api-server", "workflow-controller-configmap", "kfp-launcher"),
    "Secret": ("rlhf-kfp-database",),
    "PersistentVolumeClaim": ("rlhf-kfp-database",),
    **dict.fromkeys(("ServiceAccount", "Role", "RoleBinding"), ("ml-pipeline", _AGENT, "workflow-controller")),
    "NetworkPolicy": ("ml-pipeline", "metadata-grpc", "rlhf-kfp-database"),
    "CustomResourceDefinition": (*(f"{name}.argoproj.io" for name in _ARGO), "scheduledworkflows.kubeflow.org"),
}
PIPELINES = {(kind, name) for kind, named in _NAMES.items() for name in named}


@pytest.mark.parametrize("major", PACKAGES)
@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(case, major):
    result = helm("lint", "--strict", str(CHART), *arguments(case), major=major)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("case", CASES)
def test_both_helms_render_the_same_for_the_oldest_and_a_new_kubernetes(case):
    """But for what is drawn at random."""
    old, new = ["--kube-version", "1.29.0"], ["--kube-version", "1.36.0-gke.1"]
    seen = [render(*arguments(case), *version, major=major) for version, major in ((old, 3), (old, 4), (new, 4))]
    for made in itertools.chain(*seen):
        if made["kind"] == "Secret" and "data" in made:
            made["data"] = sorted(made["data"])
    assert seen[0] == seen[1] == seen[2]


def test_an_older_kubernetes_is_refused():
    result = helm("template", "rlhf", str(CHART), "--kube-version", "1.28.0")
    assert result.returncode
    assert "requires kubeVersion" in result.stderr


def test_every_object_has_only_fields_of_its_kind(objects):
    assert [mistake for made in objects for mistake in mistakes(made)] == []


def test_no_name_is_given_twice(objects):
    assert len(names(objects)) == len(set(names(objects)))


def test_what_is_made_for_a_laptop_that_drives_the_cluster(laptop):
    assert set(names(laptop)) == STORE | {("Secret", "rlhf-store")} | ACCOUNTS | MINIO | OPERATOR | POLICIES


def test_with_everything_there_already_only_our_own_objects_are_made():
    assert set(names(render(*arguments("minimal")))) == STORE | ACCOUNTS


def test_what_kubeflow_pipelines_adds(laptop):
    assert set(names(render())) - set(names(laptop)) == PIPELINES


def test_what_is_made_with_every_switch_on():
    ui = {(kind, "ml-pipeline-ui") for kind in ("Deployment", "Service", "ServiceAccount", "Role", "RoleBinding")}
    ui |= {("Deployment", "metadata-envoy"), ("Service", "metadata-envoy-service")}
    one_namespace = {("Role", "training-operator"), ("RoleBinding", "training-operator")}
    everything = STORE | {("Secret", "rlhf-store")} | ACCOUNTS | MINIO | OPERATOR | POLICIES | PIPELINES
    assert set(names(render(*arguments("everything")))) == everything | ui | one_namespace | {
        ("CronJob", "rlhf-reaper")
    }


def test_no_credential_and_no_claim_is_made_where_there_are_some():
    everything = STORE | ACCOUNTS | MINIO | OPERATOR | POLICIES | PIPELINES
    there = {(kind, "rlhf-kfp-database") for kind in ("Secret", "PersistentVolumeClaim")}
    there |= {("Secret", "rlhf-minio-root"), ("PersistentVolumeClaim", "rlhf-minio")}
    assert set(names(render(*arguments("existing-secrets")))) == everything - there


def test_a_part_that_is_elsewhere_is_not_made_here():
    made, default = set(names(render(*arguments("external-database")))), set(names(render()))
    assert default - made == {
        *((kind, "workflow-controller") for kind in ("Deployment", "ServiceAccount", "Role", "RoleBinding")),
        ("ConfigMap", "workflow-controller-configmap"),
        *((kind, "rlhf-kfp-database") for kind in ("Deployment", "Service", "Secret", "PersistentVolumeClaim")),
        ("NetworkPolicy", "rlhf-kfp-database"),
    }
    assert made - default == set()
