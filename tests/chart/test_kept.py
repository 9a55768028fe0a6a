"""What the chart keeps and what it draws: data, Secrets, and the release's own."""

import base64
import gzip
import json

from tests.support.helm import CHART, helm, render
from tests.support.rendered import arguments, names


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


def test_the_release_fits_into_its_secret():
    """Kubernetes takes 1 MiB; Helm keeps values, templates and manifest, packed."""
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
