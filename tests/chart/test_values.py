"""Values: closed schema, a comment for each leaf, one table and one list of images; impossible ones are refused."""

import json
import os
import re

import pytest
import yaml

from tests.support.helm import CHART, refusal, render

README = CHART / "README.md"
IMAGES = CHART / "images.txt"
MIRROR = "mirror.example:5000/proxy"


def dumped(objects):
    return yaml.dump_all(objects, width=10_000, Dumper=yaml.CSafeDumper)


def documented():
    """Path, default and description of each documented value, in the file's order."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows, path, comment = [], [], ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if found := re.match(r"\s*# -- (.*)", line):
            comment = found[1]
        elif found := re.match(r"( *)([A-Za-z]\w*):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            if comment:
                value = values
                for name in path:
                    value = value[name]
                rows.append((".".join(path), value, comment))
                comment = ""
    return rows


def leaves(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_leaf_has_a_comment():
    paths = [path for path, _, _ in documented()]
    assert len(paths) == len(set(paths))
    for leaf in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        assert any(leaf == path or leaf.startswith(f"{path}.") for path in paths), leaf


def test_the_readme_lists_every_value():
    cells = [(path, json.dumps(value), text.replace("|", "\\|")) for path, value, text in documented()]
    table = ["| value | default | what it is |", "|---|---|---|"]
    table += [f"| `{path}` | `{value}` | {text} |" for path, value, text in cells]
    before, _, rest = README.read_text().partition("<!-- values -->\n")
    _, _, after = rest.partition("<!-- end of values -->")
    wanted = "\n".join([f"{before}<!-- values -->", *table, f"<!-- end of values -->{after}"])
    if os.environ.get("RLHF_REGENERATE"):
        README.write_text(wanted)
    assert README.read_text() == wanted


def images():
    """Every image that the chart names or hands on."""
    with_all = render("-f", str(CHART / "ci" / "everything-values.yaml"), "--set", "images.tag=")
    text = dumped(with_all)
    found = set(re.findall(rf"{re.escape(MIRROR)}/(\S+?[:@]\S+?)['\",]*(?=\s)", text))
    targets = ("launcher", "data", "pretrain", "sft", "reward", "rl", "dpo", "evaluate")
    ours = {f"rlhf-stack/{name}" for name in targets}
    return found, ours


def test_the_list_of_images_is_complete():
    """Each with its own registry, for a mirror to fetch."""
    found, ours = images()
    listed = [line for line in IMAGES.read_text().splitlines() if line and not line.startswith("#")]
    assert listed == sorted(listed)
    paths = {line.partition("/")[2] for line in listed}
    assert {path.rpartition(":")[0] for path in paths if path.startswith("rlhf-stack/")} == ours
    named = {path for path in found if "@" not in path}  # the one with a digest has an invented one
    assert named | {path for path in paths if path.startswith(("rlhf-stack/", "minio/"))} == paths
    defaults = dumped(render("--set", "kfp.ui.enabled=true"))
    for line in listed:
        assert line in defaults or line.partition("/")[2].startswith("rlhf-stack/"), line


def test_one_value_sends_every_image_to_a_mirror():
    text = dumped(render("--set", f"global.imageRegistry={MIRROR},kfp.ui.enabled=true"))
    for registry in ("ghcr.io", "quay.io", "docker.io", "gcr.io"):
        assert f"{registry}/" not in text
    assert f"RLHF_REGISTRY: {MIRROR}/rlhf-stack" in text


def test_a_digest_wins_over_the_tag():
    digest = f"sha256:{'a' * 64}"
    text = dumped(render("--set", f"kfp.driver.image.digest={digest}"))
    assert f"ghcr.io/kubeflow/kfp-driver@{digest}" in text
    assert "kfp-driver:2.17.0" not in text


def closed(schema, definitions, path=""):
    """Paths of objects in a schema that would take any key."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") != "object":
        return
    if "properties" in schema:
        if schema.get("additionalProperties") is not False:
            yield path
        for name, part in schema["properties"].items():
            yield from closed(part, definitions, f"{path}.{name}")
    elif "additionalProperties" not in schema:
        yield path


def test_the_schema_is_closed_and_knows_every_value():
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(closed(schema, schema["definitions"])) == {".podSecurityContext"}  # Kubernetes knows its fields
    for path, _, _ in documented():
        part = schema
        for name in path.split("."):
            part = part["properties"][name]
            if "$ref" in part:
                part = schema["definitions"][part["$ref"].rpartition("/")[2]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("minio.enable=false", "additional properties 'enable' not allowed"),
        ("minio.image.tag=latest", "/minio/image/tag"),
        ("images.all=mine:latest", "/images/all"),
        ("minio.image.digest=sha256:12", "/minio/image/digest"),
        ("store.endpoint=minio:9000", "/store/endpoint"),
        ("store.bucket=Models", "/store/bucket"),
        ("minio.resources.limits.memory=lots", "/minio/resources/limits/memory"),
        ("networkPolicy.apiFrom={10.0.0.1}", "/networkPolicy/apiFrom/0"),
        ("minio.enabled=false", "set store.endpoint to the URL of your S3 store"),
        ("store.endpoint=https://s3.example", "set minio.enabled to false"),
        ("store.endpoint=https://s3.example,minio.enabled=false", "make the Secret rlhf-store"),
        ("kfp.database.enabled=false", "set kfp.database.host"),
        ("kfp.database.enabled=false,kfp.database.host=db", "set kfp.database.existingSecret"),
        ("kfp.enabled=false,kfp.ui.enabled=true", "kfp.ui.enabled needs kfp.enabled"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(values, said):
    assert said in refusal("--set", values)
