"""Steps on the real cluster: with lent packages, in a namespace of the test, by a launcher that the test can kill."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.common.artifacts import find_manifest
from components.launcher.job import GPU_STAGES
from tests.support.cluster import Cluster, Object, pod, wait_until
from tests.support.commands import ROOT, environment
from tests.support.launch_step import step_of

STEPS = (*GPU_STAGES, "prepare", "data", "merge", "report")


def lent_settings(lent: Any, **settings: Any) -> dict[str, Any]:
    """The section `launcher` by which a small image becomes ours."""
    small = {"cpu": "100m", "memory": "4Gi"}
    return {
        "images": dict.fromkeys(STEPS, lent.image),
        "volumes": lent.volumes,
        "volume_mounts": lent.mounts,
        "env": lent.environment,
        "omp_num_threads": 1,
        "resources": {"training": small, "cpu": small},
        "shm_size": "256Mi",
        "grace_period": 10,
        **settings,
    }


def kill_containers(command: str) -> None:
    """Sends SIGKILL to the first process of each container whose command line matches, as the kernel would.

    Only where the cluster's node is this machine.
    """
    found = subprocess.run(["pgrep", "-f", command], capture_output=True, text=True, check=True).stdout.split()
    first = [pid for pid in found if Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split()[1:2] == ["1"]]
    assert first, f"no container runs {command}"
    subprocess.run(["kill", "-9", *first], check=True)


class Launcher:
    """A launcher's process; what it prints is kept with the time at which it came."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**environment(), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.time(), line.rstrip("\n").lstrip("\x1e")))

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.lines)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Waits until it has printed something."""
        try:
            wait_until(lambda: text in self.text or self.process.poll() is not None, seconds, f"{text!r} printed")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text}") from None
        assert text in self.text, self.text

    def end(self, seconds: float = 180) -> int:
        """Waits for its end; returns the exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the launcher does not end\n{self.text}") from None
        self._reader.join(10)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Steps:
    """Runs the little stage on the cluster.

    Attributes:
        cluster: The cluster.
        namespace: The test's namespace.
        bucket: The store.
        lent: What makes the image ours.
        run: The run's id.
        module: What is run.
        reads: Folders of the store that it reads.
    """

    cluster: Cluster
    namespace: str
    bucket: Any
    lent: Any
    run: str = field(default_factory=lambda: f"run-{secrets.token_hex(3)}")
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    module: str = "tests.support.little_stage"
    reads: tuple[str, ...] = ()

    def variables(self) -> dict[str, str]:
        """The environment of whoever drives the cluster from here."""
        store = {**self.bucket.settings(host=True), **self.bucket.secret()}
        return {"KUBECONFIG": os.environ["KUBECONFIG"], "RLHF_NAMESPACE": self.namespace, **store}

    def fields(self, *arguments: str, **settings: Any) -> dict[str, Any]:
        return {
            "run": self.run,
            "key": self.key,
            "root": self.bucket.root,
            "module": self.module,
            "reads": self.reads,
            "arguments": arguments,
            "launcher": lent_settings(self.lent, **settings),
        }

    def launch(self, *arguments: str, **settings: Any) -> Launcher:
        """Starts a launcher for the little stage with these arguments."""
        text = json.dumps(self.fields(*arguments, **settings))
        return Launcher(["-m", "tests.support.launch_step", text], self.variables())

    def launcher_pod(self, name: str, *arguments: str, **settings: Any) -> Object:
        """A pod in which a launcher runs the little stage, as a step of Kubeflow Pipelines does."""
        text = json.dumps(self.fields(*arguments, **settings))
        command = ["python3", "-m", "tests.support.launch_step", text]
        made: Object = self.lent.to(pod(name, "", command, account="rlhf-launcher"))
        return made

    @property
    def name(self) -> str:
        """Name of the job."""
        return step_of(self.fields()).name

    @property
    def pod(self) -> str:
        return f"{self.name}-master-0"

    def jobs(self) -> list[str]:
        return [job["metadata"]["name"] for job in self.cluster.pytorchjobs(self.namespace)]

    def check_nothing_is_left(self) -> None:
        """No job, no pod that holds GPUs, no Secret of a job."""
        wait_until(lambda: not self.jobs(), 20, "no job is left")
        wait_until(lambda: not self.cluster.batch.list_namespaced_job(self.namespace).items, 20, "no Job is left")
        wait_until(lambda: not self.cluster.core.list_namespaced_pod(self.namespace).items, 60, "no pod is left")
        names = [item.metadata.name for item in self.cluster.core.list_namespaced_secret(self.namespace).items]
        wait_until(
            lambda: (
                [item.metadata.name for item in self.cluster.core.list_namespaced_secret(self.namespace).items]
                == ["rlhf-store"]
            ),
            30,
            f"no Secret is left of {names}",
        )

    def manifest(self) -> Any:
        """The result's manifest, or None."""
        os.environ.update(self.variables())
        from components.common.store import open_store

        return find_manifest(open_store(self.bucket.root), f"artifacts/sft/{self.key}")
