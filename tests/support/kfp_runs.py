"""Runs of Kubeflow Pipelines on the real cluster, as a person sees them."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import kfp
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from components.common.store import open_store
from components.launcher.access import cluster_access
from components.launcher.record import Run, StepRecord
from tests.support.cluster import Cluster, Object, wait_until
from tests.support.releases import Release

ENDED = ("SUCCEEDED", "FAILED", "CANCELED")
_ASKED = """
SELECT DISTINCT Type.name, Artifact.name, Artifact.uri, IFNULL(p.name, ''),
  IFNULL(p.double_value, IFNULL(p.string_value, ''))
FROM Context JOIN Attribution ON Attribution.context_id = Context.id JOIN Artifact ON Artifact.id = artifact_id
JOIN Type ON Type.id = Artifact.type_id LEFT JOIN ArtifactProperty p ON p.artifact_id = Artifact.id
WHERE Context.name = '{run}'
"""


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
                if error.status not in (400, 404):  # it has not begun, or is gone since
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
        printed = self.cluster.log(self.namespace, pod.metadata.name)
        batch.delete_namespaced_job(name, self.namespace, propagation_policy="Background")
        return printed

    def evict(self, pod: str) -> None:
        """Has a pod removed as `kubectl drain` does."""
        metadata = client.V1ObjectMeta(name=pod, namespace=self.namespace)
        self.cluster.core.create_namespaced_pod_eviction(pod, self.namespace, client.V1Eviction(metadata=metadata))

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
