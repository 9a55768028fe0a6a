"""What operator, scheduler and kubelet make of a job, one deed at a time, on the fake API server."""

from __future__ import annotations

import json
from typing import Any

from components.launcher.cluster import Object
from tests.support.api_server import ApiServer, Container, now


class FakeOperator:
    """Plays the rest of the cluster for one job.

    Args:
        server: The API server.
        name: The job's name.
    """

    def __init__(self, server: ApiServer, name: str) -> None:
        self.server, self.name = server, name

    @property
    def job(self) -> Object:
        return self.server.objects["pytorchjobs"][self.name]

    def await_job(self) -> Object:
        self.server.wait_for(lambda: self.name in self.server.objects.get("pytorchjobs", {}))
        return self.job

    def condition(self, kind: str, reason: str = "", message: str = "") -> None:
        item = json.loads(json.dumps(self.job))
        conditions = item.setdefault("status", {}).setdefault("conditions", [])
        conditions.append({"type": kind, "status": "True", "reason": reason, "message": message})
        self.server.put("pytorchjobs", item)

    def pod(self, index: int = 0) -> str:
        return f"{self.name}-{'master-0' if index == 0 else f'worker-{index - 1}'}"

    def create_pod(self, index: int = 0, **status: Any) -> None:
        job = self.await_job()
        kind = "master" if index == 0 else "worker"
        template = job["spec"]["pytorchReplicaSpecs"][kind.capitalize()]["template"]
        labels = {**template["metadata"]["labels"], "training.kubeflow.org/replica-type": kind}
        owner = {"kind": "PyTorchJob", "name": self.name, "uid": job["metadata"]["uid"]}
        self.server.put(
            "pods",
            {
                "metadata": {"name": self.pod(index), "labels": labels, "ownerReferences": [owner]},
                "spec": template["spec"],
                "status": {"phase": "Pending", **status},
            },
        )

    def run_pod(self, index: int = 0) -> None:
        if self.pod(index) not in self.server.objects.get("pods", {}):
            self.create_pod(index)
        self.server.logs.setdefault(self.pod(index), [Container()])
        self.set_container({"running": {"startedAt": now()}}, index=index, phase="Running")

    def set_container(
        self, state: dict, *, last: dict | None = None, restarts: int = 0, index: int = 0, phase: str = "Running"
    ) -> None:
        item = json.loads(json.dumps(self.server.objects["pods"][self.pod(index)]))
        status = {"name": "pytorch", "restartCount": restarts, "state": state, "lastState": last or {}}
        item["status"] = {"phase": phase, "containerStatuses": [status]}
        self.server.put("pods", item)

    def end_container(self, code: int = 0, *, reason: str = "", message: str = "", index: int = 0) -> dict:
        """Ends the container; returns its terminated state."""
        with self.server.changed:
            self.server.logs[self.pod(index)][-1].ended = True
            self.server.changed.notify_all()
        ended = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "message": message}
        return {"terminated": ended}

    def succeed(self, index: int = 0) -> None:
        self.set_container(self.end_container(index=index), index=index, phase="Succeeded")
        self.condition("Succeeded")

    def restart(self, ended: dict, restarts: int = 1, index: int = 0) -> None:
        self.server.logs[self.pod(index)].append(Container())
        self.set_container({"running": {"startedAt": now()}}, last=ended, restarts=restarts, index=index)
