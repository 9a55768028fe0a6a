"""What a run did, step by step: one small JSON file a step, so that steps never write the same file."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from components.common.errors import RlhfError, UserError, error_from_dict
from components.common.logs import say
from components.common.store import Store, open_store

State = Literal["running", "done", "reused", "off", "failed"]


@dataclass(frozen=True)
class StepRecord:
    """One step of a run.

    Attributes:
        step: Name of the step.
        stage: The stage it ran; a run has several merges.
        state: reused means that the result was there before, off that the configuration switches the stage off.
        started: When, in seconds since 1970.
        seconds: How long this run spent on it.
        uri: Its artifact.
        made_in: Seconds that the run which made the artifact spent on it.
        error: What `RlhfError.to_dict` says of the failure.
    """

    step: str
    stage: str
    state: State
    started: float
    seconds: float = 0.0
    uri: str = ""
    made_in: float = 0.0
    error: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a run was started.

    Attributes:
        on: local or kubernetes.
        host: The machine that drives it.
        pid: The process that drives it.
        namespace: Of its jobs.
        began: When that process did, by which it is told from a later one of the same number.
    """

    on: str
    host: str
    pid: int
    namespace: str = ""
    began: str = ""

    @staticmethod
    def here(on: str, namespace: str = "") -> Place:
        """This process."""
        return Place(on, platform.node(), os.getpid(), namespace, _began(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Whether that is this machine."""
        return self.host == platform.node()

    def is_alive(self) -> bool:
        """Whether the process still drives the run; of other machines' processes nothing is known.

        A number alone would not do: when its process has ended, another may get it.
        """
        return not self.is_here or (bool(self.began) and _began(self.pid) == self.began)


def _began(pid: int) -> str:
    """When a process of this machine began, in ticks since the machine did; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


@dataclass(frozen=True)
class Run:
    """A run's folder in a store."""

    store: Store
    run_id: str

    @staticmethod
    def of_config(uri: str) -> Run:
        """The run whose configuration is at `<root>/runs/<run id>/config.yaml`."""
        root, _, rest = uri.rpartition("/runs/")
        return Run(open_store(root), rest.partition("/")[0])

    @property
    def config_uri(self) -> str:
        """Where the resolved configuration is."""
        return f"{self.store.root}/runs/{self.run_id}/config.yaml"

    def steps(self) -> list[StepRecord]:
        """All steps so far, in the order in which they began."""
        paths = [path for path in self.store.files(f"runs/{self.run_id}/steps") if path.endswith(".json")]
        records = [StepRecord(**json.loads(self.store.read(path))) for path in paths]
        return sorted(records, key=lambda record: record.started)

    def failure(self) -> RlhfError | None:
        """The error of the step that failed, if one did."""
        failed = [record for record in self.steps() if record.state == "failed"]
        return error_from_dict(failed[-1].error) if failed else None

    def step(self, name: str) -> StepRecord | None:
        """One step, if it has begun."""
        path = self._path(name)
        return StepRecord(**json.loads(self.store.read(path))) if self.store.exists(path) else None

    def begin(self, place: Place) -> None:
        """Notes where the run is driven from, for those who ask how it goes or end it."""
        self.store.write(self._place, json.dumps(asdict(place)).encode())

    def place(self) -> Place | None:
        """Where the run is driven from; None where Kubeflow Pipelines drives it."""
        return Place(**json.loads(self.store.read(self._place))) if self.store.exists(self._place) else None

    def cancel(self) -> None:
        """Marks the run, so that no step of it begins any more."""
        self.store.write(self._cancelled, json.dumps({"time": time.time()}).encode())

    def is_cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self.store.exists(self._cancelled)

    def forget_unfinished(self) -> None:
        """Removes the records of steps that failed or were stopped, so that a new start of the run tries them again."""
        self.store.remove(self._cancelled)
        for record in self.steps():
            if record.state in ("failed", "running"):
                self.store.remove(self._path(record.step))

    def write(self, record: StepRecord) -> None:
        """Stores a step."""
        self.store.write(self._path(record.step), json.dumps(asdict(record), indent=2).encode())

    @contextmanager
    def recording(self, step: str, stage: str) -> Iterator[Recorder]:
        """Records a step from beginning to end; a failure ends the process with the error's exit code.

        A step that failed for good in this run is not tried again: kfp.local and Argo repeat steps without looking at
        why they failed.
        """
        before = self.step(step)
        if before and before.state == "failed" and before.error.get("code") != 75:
            error = error_from_dict(before.error)
            if "KFP_POD_NAME" in os.environ:  # this pod's log would say nothing else
                say(step, f"failed before in this run: {error}")
            raise SystemExit(error.code)
        recorder = Recorder(self, StepRecord(step, stage, "running", time.time()))
        self.write(recorder.record)
        try:
            if self.is_cancelled():
                raise UserError("the run was cancelled", where=step, hint=f"`rlhf run --run-id {self.run_id}` goes on")
            yield recorder
        except RlhfError as error:
            recorder.close("failed", error=error.to_dict())
            say(step, f"✗ {error}")
            raise SystemExit(error.code) from None
        except BaseException as error:
            fields = RlhfError(f"{type(error).__name__}: {error}", where=step).to_dict()
            recorder.close("failed", error={**fields, "code": 75 if isinstance(error, SystemExit) else 1})
            raise

    @property
    def _place(self) -> str:
        return f"runs/{self.run_id}/place.json"

    @property
    def _cancelled(self) -> str:
        return f"runs/{self.run_id}/cancelled.json"

    def _path(self, step: str) -> str:
        return f"runs/{self.run_id}/steps/{step}.json"


class Recorder:
    """Keeps the record of a step that is running."""

    def __init__(self, run: Run, record: StepRecord) -> None:
        self._run, self.record = run, record

    def close(self, state: State, *, uri: str = "", made_in: float = 0.0, error: dict[str, Any] | None = None) -> None:
        """Stores the step's end."""
        seconds = round(time.time() - self.record.started, 3)
        self.record = replace(
            self.record, state=state, uri=uri, seconds=seconds, made_in=made_in or seconds, error=error or {}
        )
        self._run.write(self.record)
