"""Every kind of values, rendered: what is there, whether Kubernetes would take it, and how its pods are locked up."""

import itertools
import json
import re

import pytest
import yaml

from tests.support.helm import CHART, NAMESPACE, PACKAGES, helm, render
from tests.support.objects import mistakes

VALUES = {path.stem.removesuffix("-values"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
CASES = ["default", *VALUES]
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


def names(objects):
    return [(made["kind"], made["metadata"]["name"]) for made in objects]


def arguments(case):
    return [] if case == "default" else ["-f", str(VALUES[case])]


@pytest.fixture(scope="module", params=CASES)
def objects(request):
    return render(*arguments(request.param))


@pytest.fixture(scope="module")
def laptop():
    return render(*arguments("laptop"))


def pod_specs(objects):
    """Name and spec of every pod that objects make."""
    for made in objects:
        spec = made.get("spec") or {}
        if made["kind"] == "Pod":
            yield made["metadata"]["name"], spec
        elif made["kind"] in ("Deployment", "Job"):
            yield made["metadata"]["name"], spec["template"]["spec"]
        elif made["kind"] == "CronJob":
            yield made["metadata"]["name"], spec["jobTemplate"]["spec"]["template"]["spec"]


def containers(objects):
    for name, spec in pod_specs(objects):
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            yield f"{name}/{container['name']}", container


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
    added = set(names(render())) - set(names(laptop))
    by_kind = {kind: {name for seen, name in added if seen == kind} for kind, _ in added}
    agent = "ml-pipeline-persistenceagent"
    crds = ["workflows", "workflowtemplates", "clusterworkflowtemplates", "cronworkflows", "workflowtasksets"]
    crds += ["workflowtaskresults", "workflowartifactgctasks", "workfloweventbindings"]
    assert by_kind == {
        "Deployment": {"ml-pipeline", agent, "workflow-controller", "metadata-grpc", "rlhf-kfp-database"},
        "Service": {"ml-pipeline", "metadata-grpc-service", "rlhf-kfp-database"},
        "ConfigMap": {"rlhf-kfp-api-server", "workflow-controller-configmap", "kfp-launcher"},
        "Secret": {"rlhf-kfp-database"},
        "PersistentVolumeClaim": {"rlhf-kfp-database"},
        "ServiceAccount": {"ml-pipeline", agent, "workflow-controller"},
        "Role": {"ml-pipeline", agent, "workflow-controller"},
        "RoleBinding": {"ml-pipeline", agent, "workflow-controller"},
        "NetworkPolicy": {"ml-pipeline", "metadata-grpc", "rlhf-kfp-database"},
        "CustomResourceDefinition": {
            *(f"{name}.argoproj.io" for name in crds),
            "scheduledworkflows.kubeflow.org",
        },
    }


def test_a_part_that_is_elsewhere_is_not_made_here():
    without = set(names(render())) - set(names(render(*arguments("external-database"))))
    assert ("Deployment", "rlhf-kfp-database") in without
    assert ("Deployment", "workflow-controller") in without
    assert not any(name == "ml-pipeline" for _, name in without)


def test_every_pod_satisfies_the_restricted_standard(objects):
    specs = list(pod_specs(objects))
    assert specs
    for name, spec in specs:
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume], name
        assert spec["enableServiceLinks"] is False, name  # or a Service would set variables that programs read
    for name, container in containers(objects):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_the_container_that_the_operator_adds_is_restricted_too(laptop):
    (config,) = [made for made in laptop if made["metadata"]["name"] == "training-operator-init-container"]
    (container,) = yaml.safe_load(re.sub(r"\{\{\.\w+\}\}", "1", config["data"]["template.yaml"]))
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]


def test_every_container_says_what_it_needs(objects):
    for name, container in containers(objects):
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
        assert container["resources"]["limits"]["memory"], name


def test_only_pods_that_call_the_kubernetes_api_get_a_token(objects):
    callers = {
        *("rlhf-smoke-test", "rlhf-reaper", "training-operator", "ml-pipeline", "ml-pipeline-persistenceagent"),
        *("workflow-controller", "ml-pipeline-ui"),
    }
    for name, spec in pod_specs(objects):
        assert (spec.get("automountServiceAccountToken") is not False) == (name in callers), name


def test_no_image_is_latest(objects):
    for name, container in containers(objects):
        assert re.search(r":[^/:]+$|@sha256:[0-9a-f]{64}$", container["image"]), name
        assert not container["image"].endswith(":latest"), name


def test_every_secret_and_config_map_that_a_pod_reads_is_made_or_named_in_the_values(objects):
    made = set(names(objects))
    theirs = {"rlhf-store", "my-minio-root", "my-database", "mysql-kfp"}
    for name, container in containers(objects):
        for source in container.get("envFrom", []):
            for kind, field in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
                reference = source.get(field, {}).get("name")
                assert reference in {None, *theirs} or (kind, reference) in made, name
        for variable in container.get("env", []):
            secret = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
            assert secret in {None, *theirs} or ("Secret", secret) in made, name
    for name, spec in pod_specs(objects):
        for volume in spec.get("volumes", []):
            config, secret = volume.get("configMap", {}).get("name"), volume.get("secret", {}).get("secretName")
            assert config is None or ("ConfigMap", config) in made, name
            assert secret is None or ("Secret", secret) in made, name
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "my-")
            assert claim.startswith("my-") or claim == "lent" or ("PersistentVolumeClaim", claim) in made, name


def test_every_account_that_a_pod_runs_as_is_made(objects):
    made = set(names(objects))
    for name, spec in pod_specs(objects):
        account = spec.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in made, name


def test_every_service_and_policy_selects_pods_of_the_chart(objects):
    labels = [made["spec"]["template"]["metadata"]["labels"] for made in objects if made["kind"] == "Deployment"]
    for made in objects:
        if made["kind"] == "Service":
            wanted = made["spec"]["selector"]
        elif made["kind"] == "NetworkPolicy" and "matchLabels" in made["spec"]["podSelector"]:
            wanted = made["spec"]["podSelector"]["matchLabels"]
        else:
            continue
        assert any(wanted.items() <= seen.items() for seen in labels), made["metadata"]["name"]


def test_selectors_do_not_change_with_the_version(objects):
    for made in objects:
        if made["kind"] == "Deployment":
            chosen = set(made["spec"]["selector"]["matchLabels"])
            assert chosen == {f"app.kubernetes.io/{name}" for name in ("part-of", "instance", "component")}


def test_what_holds_data_is_kept_on_uninstall(objects):
    kept = {made["kind"] for made in objects if "helm.sh/resource-policy" in made["metadata"].get("annotations", {})}
    assert kept <= {"CustomResourceDefinition", "PersistentVolumeClaim", "Secret"}
    for made in objects:
        holds_data = made["kind"] in ("CustomResourceDefinition", "PersistentVolumeClaim") or (
            made["kind"] == "Secret" and made.get("data")
        )
        policy = made["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        assert (policy == "keep") == bool(holds_data), made["metadata"]["name"]


def test_the_webhooks_secret_holds_nothing_that_an_upgrade_could_overwrite(laptop):
    (secret,) = [made for made in laptop if made["metadata"]["name"] == "training-operator-webhook-cert"]
    assert set(secret) == {"apiVersion", "kind", "metadata", "type"}
    (webhook,) = [made for made in laptop if made["kind"] == "ValidatingWebhookConfiguration"]
    assert "caBundle" not in webhook["webhooks"][0]["clientConfig"]


def test_passwords_are_drawn_anew_and_no_default_is_in_the_chart():
    first, second = render(), render()
    for name, key in (
        ("rlhf-store", "AWS_SECRET_ACCESS_KEY"),
        ("rlhf-minio-root", "MINIO_ROOT_PASSWORD"),
        ("rlhf-kfp-database", "password"),
    ):
        drawn = {made["data"][key] for made in [*first, *second] if names([made]) == [("Secret", name)]}
        assert len(drawn) == 2, name


def test_with_secrets_of_your_own_each_rendering_is_the_same():
    values = arguments("existing-secrets")
    assert render(*values) == render(*values)
    assert not [made for made in render(*values) if made["kind"] == "Secret" and "data" in made]


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


def test_the_release_fits_into_its_secret():
    """Kubernetes takes 1 MiB; Helm keeps values, templates and manifest, packed."""
    import base64
    import gzip
    import json

    parts = {
        str(path.relative_to(CHART)): path.read_text()
        for path in CHART.rglob("*")
        if path.is_file() and path.parent.name != "ci"
    }
    manifest = helm("template", "rlhf", str(CHART)).stdout
    # Each file of the chart is kept in base64, then all is packed, and written in base64 twice.
    chart = {name: base64.b64encode(text.encode()).decode() for name, text in parts.items()}
    packed = gzip.compress(json.dumps([chart, manifest]).encode())
    assert len(base64.b64encode(base64.b64encode(packed))) < 500_000
