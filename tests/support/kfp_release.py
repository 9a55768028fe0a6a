"""Our chart with Kubeflow Pipelines on the real cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.support.cluster import Cluster, Object
from tests.support.cluster_steps import lent_settings
from tests.support.commands import ROOT
from tests.support.kfp_runs import Pipelines
from tests.support.releases import MOUNTS, PYTHONPATH, VOLUMES, prepared

VARIABLE = "RLHF_KFP_IMAGES"
PULLED = "pull"
# Steps' pods and jobs' pods alike; nothing may be asked of a network, and of the node's two cores little.
LENT_ENVIRONMENT = {
    "PYTHONPATH": PYTHONPATH,
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HOME": "/tmp",
}
# A run in which every step happens, and none takes long.
SHORT: Object = {
    "model": {"scratch": {"train": {"max_steps": 20}}},
    "pretrain": {"max_steps": 4},
    "sft": {"max_steps": 4, "num_eval_prompts": 8},
    "reward": {"max_steps": 4},
    "rl": {"max_steps": 2, "num_eval_prompts": 8},
    "evaluate": {"num_eval_prompts": 8},
}


def write_short_config(path: Path, image: str, gpus_per_node: int) -> Path:
    """Writes the configuration of a short run on the toy world, in a namespace of a release of the tests.

    Args:
        path: The file.
        image: A small Python image that takes the place of ours.
        gpus_per_node: Of each training pod, and as many processes.
    """
    launcher = lent_settings(LentByClaim(image), gpus_per_node=gpus_per_node)
    path.write_text(yaml.safe_dump({**SHORT, "launcher": launcher}))
    return path


class LentByClaim:
    """What `tests.support.cluster_steps.lent_settings` asks for, where `restricted` lets no hostPath in."""

    def __init__(self, image: str) -> None:
        self.image, self.volumes, self.mounts, self.environment = image, VOLUMES, MOUNTS, LENT_ENVIRONMENT


def load_images(cluster: Cluster) -> None:
    """Brings the images of Kubeflow Pipelines from the folder `RLHF_KFP_IMAGES`, unless the cluster pulls them."""
    folder = os.environ[VARIABLE]
    if folder == PULLED:
        return
    archives = sorted(Path(folder).glob("*.tar"))
    assert archives, f"{VARIABLE}={folder}: there is no archive"
    assert cluster.is_ours, f"{VARIABLE}: archives are loaded into the cluster of tests/cluster only; else say {PULLED}"
    subprocess.run([ROOT / "tests" / "cluster" / "load", *archives], check=True)


@contextmanager
def running_pipelines(cluster: Cluster, namespace: str, image: str, registry: str) -> Iterator[Pipelines]:
    """Installs the chart with Kubeflow Pipelines, for the time of the block, in a namespace that enforces `restricted`.

    Args:
        cluster: Where; it has the training operator.
        namespace: Name of the namespace to make.
        image: A Python image that takes the place of all of ours; packages and this tree are lent to it.
        registry: Registry of the tests' own images.
    """
    main = {
        "name": "main",
        "volumeMounts": MOUNTS,
        "env": [{"name": name, "value": value} for name, value in LENT_ENVIRONMENT.items()],
    }
    values = {
        "trainingOperator": {"enabled": False, "installCRD": False},
        "kfp": {
            "argo": {"podPatch": {"volumes": VOLUMES, "containers": [main]}},
            "database": {"persistence": {"size": "1Gi"}},
        },
        "reaper": {"enabled": True, "schedule": "0 0 1 1 *"},  # when a test says so
    }
    with prepared(cluster, namespace, image, registry, **values) as release:
        release.helm("install", "--wait", "--take-ownership", chart=ROOT / "charts" / "rlhf-stack", timeout="10m")
        yield Pipelines(release)
