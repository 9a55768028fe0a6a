"""The chart's pods: how they are locked up, what they ask for, and that all they refer to is there."""

import re

import yaml

from tests.support.rendered import containers, names, pod_specs


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
