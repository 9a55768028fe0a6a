"""Our chart with Kubeflow Pipelines on the real cluster, and runs on it as a person sees them."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import kfp
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from components.common.store import open_store
from components.launcher.access import cluster_access
from components.launcher.record import Run, StepRecord
from tests.support.cluster import Cluster, Object, wait_until
from tests.support.cluster_steps import lent_settings
from tests.support.commands import ROOT
from tests.support.releases import MOUNTS, PYTHONPATH, VOLUMES, Release, prepared

VARIABLE = "RLHF_KFP_IMAGES"
PULLED = "pull"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED")
# Steps' pods and jobs' pods alike; nothing may be asked of a network, and of the node's two cores little.
LENT_ENVIRONMENT = {
    "PYTHONPATH": PYTHONPATH,
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HOME": "/tmp",
}
_ASKED = """
SELECT DISTINCT Type.name, Artifact.name, Artifact.uri, IFNULL(p.name, ''),
  IFNULL(p.double_value, IFNULL(p.string_value, ''))
FROM Context JOIN Attribution ON Attribution.context_id = Context.id JOIN Artifact ON Artifact.id = artifact_id
JOIN Type ON Type.id = Artifact.type_id LEFT JOIN ArtifactProperty p ON p.artifact_id = Artifact.id
WHERE Context.name = '{run}'
"""


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


@dataclass
class Registered:
    """An artifact that a run has registered.

    Attributes:
        type: Such as `system.Model`.
        name: Its name.
        uri: Where it is.
        properties: Numbers and words that it carries.
    """

    type: str
    name: str
    uri: str
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipelines:
    """A release of our chart that runs Kubeflow Pipelines."""

    release: Release

    @property
    def cluster(self) -> Cluster:
        return self.release.cluster

    @property
    def namespace(self) -> str:
        return self.release.namespace

    @cached_property
    def client(self) -> Any:
        """KFP's own client, through the kubeconfig."""
        return kfp.Client(namespace=self.namespace)

    def state(self, run: str) -> str:
        """How a run is; empty until its controller has seen it."""
        return self.client.get_run(run).state or ""

    def history(self, run: str) -> list[str]:
        """All states that a run has had."""
        return [entry.state for entry in self.client.get_run(run).state_history or []]

    def wait_for_end(self, run: str, seconds: float) -> str:
        """Waits until a run has ended; returns its state."""
        wait_until(lambda: self.state(run) in ENDED, seconds, f"run {run} ended\n{self.told(run)}")
        return self.state(run)

    def told(self, run: str) -> str:
        """What a person would look at: pods of a run and warnings, for messages of failed tests."""
        pods = [f"{pod.metadata.name} {pod.status.phase}" for pod in self.pods(f"pipeline/runid={run}")]
        return "\n".join([*pods, self.cluster.events(self.namespace)[-3000:]])

    def pods(self, labels: str) -> list[Any]:
        """Pods with the given labels."""
        return list(self.cluster.core.list_namespaced_pod(self.namespace, label_selector=labels).items)

    def jobs(self, run: str) -> list[Object]:
        """A run's training jobs."""
        found = self.cluster.custom.list_namespaced_custom_object(
            "kubeflow.org", "v1", self.namespace, "pytorchjobs", label_selector=f"rlhf-stack/run={run}"
        )
        return list(found["items"])

    def workflow(self, run: str) -> Object:
        """The Argo Workflow of a run."""
        found = self.cluster.custom.list_namespaced_custom_object(
            "argoproj.io", "v1alpha1", self.namespace, "workflows", label_selector=f"pipeline/runid={run}"
        )
        (workflow,) = found["items"]
        return dict(workflow)

    def step_log(self, run: str, step: str) -> str:
        """What the pods of a step of a run have printed, all tries."""
        texts = []
        for pod in self.pods(f"pipeline/runid={run},rlhf-stack/step={step}"):
            try:
                texts.append(self.cluster.log(self.namespace, pod.metadata.name, container="main"))
            except ApiException as error:
                if error.status != 400:  # it has not begun
                    raise
        return "\n".join(texts)

    def wait_for_log(self, run: str, step: str, text: str, seconds: float = 900) -> None:
        """Waits until a step has printed something; a run that ends before is an error."""

        def printed() -> bool:
            if text in self.step_log(run, step):
                return True
            assert self.state(run) not in ENDED, f"run {run} has ended\n{self.step_log(run, step)}\n{self.told(run)}"
            return False

        wait_until(printed, seconds, f"{step} of run {run} printed {text!r}")

    def reap(self) -> str:
        """Lets the reaper look once; returns what it has printed."""
        batch = client.BatchV1Api(self.cluster.api)
        template = batch.read_namespaced_cron_job("rlhf-reaper", self.namespace).spec.job_template
        name = f"rlhf-reaper-{secrets.token_hex(3)}"
        batch.create_namespaced_job(
            self.namespace, client.V1Job(metadata=client.V1ObjectMeta(name=name), spec=template.spec)
        )
        wait_until(
            lambda: batch.read_namespaced_job(name, self.namespace).status.succeeded, 120, "the reaper has looked"
        )
        (pod,) = self.pods(f"job-name={name}")
        return self.cluster.log(self.namespace, pod.metadata.name)

    def restart(self, component: str) -> None:
        """Replaces the pod of a part of the chart."""
        labels = f"app.kubernetes.io/component={component}"
        for pod in self.pods(labels):
            self.cluster.core.delete_namespaced_pod(pod.metadata.name, self.namespace)
        wait_until(lambda: self._is_ready(labels), 180, f"{component} ready again")

    def _is_ready(self, labels: str) -> bool:
        pods = self.pods(labels)
        states = [state for pod in pods for state in pod.status.container_statuses or []]
        return len(pods) == 1 and bool(states) and all(state.ready for state in states)

    @contextmanager
    def record(self, run: str) -> Iterator[Run]:
        """A run's folder in the release's MinIO while the block runs."""
        with cluster_access(self.namespace):
            yield Run(open_store(os.environ["RLHF_STORE"]), run)

    def steps(self, run: str) -> dict[str, StepRecord]:
        """What a run's steps have recorded."""
        with self.record(run) as found:
            return {record.step: record for record in found.steps()}

    def registered(self, run: str) -> list[Registered]:
        """The artifacts that MLMD has of a run."""
        query = " ".join(_ASKED.format(run=run).split())
        shell = f'mariadb --no-defaults -h 127.0.0.1 -u"$DATABASE_USER" -p"$PASSWORD" -NB "$METADATA" -e "{query}"'
        command = ["kubectl", "exec", "-n", self.namespace, "deployment/rlhf-kfp-database", "--", "sh", "-c", shell]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        found: dict[str, Registered] = {}
        for line in result.stdout.splitlines():
            kind, name, uri, key, value = line.split("\t")
            found.setdefault(uri, Registered(kind, name, uri)).properties[key] = value
        return list(found.values())


def run_id(output: str) -> str:
    """The run's id in what `kfp run submit` prints."""
    found = re.search(r"^run (\S+) \(.*\) started", output, re.MULTILINE)
    assert found, output
    return found[1]


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
