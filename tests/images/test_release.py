"""The release workflow's own scripts, run on a copy of the tree; Helm is a script that notes how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.commands import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())
STEPS = {step["name"]: step for step in WORKFLOW["jobs"]["publish"]["steps"] if "name" in step}
VERSIONS = "The tag and the versions in the tree are the same"
HELM = '#!/bin/sh\necho "$@" >> "$CALLS"\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the scripts read and change, with a Helm of its own."""
    shutil.copytree(ROOT / "charts", tmp_path / "charts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    helm = tmp_path / "bin" / "helm"
    helm.parent.mkdir()
    helm.write_text(HELM)
    helm.chmod(0o755)
    return tmp_path


def run(tree: Path, step: str, tag: str) -> subprocess.CompletedProcess[str]:
    """Runs a step's script as the workflow does."""
    given = {
        **os.environ,
        "PATH": f"{tree / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(tree / "calls"),
        "GITHUB_REF_NAME": tag,
        "GITHUB_ENV": str(tree / "env"),
        "GITHUB_ACTOR": "somebody",
        "REGISTRY": WORKFLOW["env"]["REGISTRY"].replace("${{ github.repository_owner }}", "somebody"),
    }
    script = STEPS[step]["run"].replace("${{ secrets.GITHUB_TOKEN }}", "token")
    assert "${{" not in script
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=tree, env=given, capture_output=True, text=True, check=False
    )


def version() -> str:
    return str(yaml.safe_load((ROOT / "charts/rlhf-stack/Chart.yaml").read_text())["version"])


def test_only_the_version_in_the_tree_can_be_released(tree):
    assert run(tree, VERSIONS, f"v{version()}").returncode == 0
    assert (tree / "env").read_text() == f"VERSION={version()}\n"
    assert run(tree, VERSIONS, "v9.9.9").returncode != 0


def test_the_chart_that_is_published_names_the_images_published_beside_it(tree):
    result = run(tree, "Chart", f"v{version()}")
    assert result.returncode == 0, result.stderr
    images = yaml.safe_load((tree / "charts/rlhf-stack/values.yaml").read_text())["images"]
    assert (images["registry"], images["repository"], images["tag"]) == ("ghcr.io", "somebody", "")
    calls = (tree / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["package", "registry", "push"]
    assert calls[-1].endswith("oci://ghcr.io/somebody/charts")


def test_images_are_pushed_under_the_names_that_the_chart_looks_for():
    assert "images/docker-bake.hcl --push" in STEPS["Images"]["run"]
    assert WORKFLOW["env"]["REGISTRY"].startswith("ghcr.io/")
    assert '"${REGISTRY}/${target}:${VERSION}"' in (ROOT / "images/docker-bake.hcl").read_text()
