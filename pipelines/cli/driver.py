"""The process that runs a pipeline: started, listened to, and ended with all that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import click

from components.common.errors import RlhfError
from components.common.logs import MARK
from components.launcher.record import Run

GRACE_SECONDS = 120.0  # for a last checkpoint, as long as pods have by default
KEPT_LINES = 60  # of the libraries' output, shown when a step dies of a bug


def drive(file: Path, started: Run, parameters: dict[str, str | int], changes: dict[str, str], verbose: bool) -> int:
    """Runs a pipeline's process to its end.

    Args:
        file: The pipeline.
        started: The run.
        parameters: Of the pipeline.
        changes: Environment variables that say where its steps run.
        verbose: Whether to print what the libraries print, too.

    Returns:
        The exit code.
    """
    with started.store.folder(f"runs/{started.run_id}") as folder:
        return _drive_in(folder, file, started, parameters, changes, verbose)


def _drive_in(
    folder: Path,
    file: Path,
    started: Run,
    parameters: dict[str, str | int],
    changes: dict[str, str],
    verbose: bool,
) -> int:
    """The same, with a local folder for its log and for what kfp keeps of each step."""
    environment = {
        **os.environ,
        **changes,
        "RLHF_STORE": started.store.root,
        "RLHF_RUN_ID": started.run_id,
        "RLHF_MARK_LINES": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "pipelines.cli.local_pipeline", str(file), str(folder / "kfp")]
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    # A session of its own: one signal then reaches the pipeline, its step and the step's processes, and no more.
    with subprocess.Popen(
        [*command, json.dumps(parameters)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        with _ending_on_signal(process), _log(folder / "run.log") as log:
            _follow(process.stdout, log, kept, verbose)
            status = process.wait()
    if status == 0:
        return 0
    _report(started, environment)
    failure = started.failure() or RlhfError("the pipeline could not be run", where=str(file))
    if failure.code == 1 and not verbose:
        click.echo("\n".join(kept), err=True)
    click.echo(f"error: {failure}", err=True)
    return failure.code


def _log(path: Path) -> IO[str]:
    """The run's log, each line of which is there as soon as it is said: `rlhf logs -f` reads it meanwhile."""
    return path.open("w", encoding="utf-8", buffering=1)


def _report(started: Run, environment: dict[str, str]) -> None:
    """Writes the report of a run that failed, whose own report step was never reached."""
    if started.store.exists(f"runs/{started.run_id}/config.yaml"):
        command = [sys.executable, "-m", "components.report", "--config", started.config_uri]
        if subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0:
            click.echo(f"report: {started.store.root}/runs/{started.run_id}/report/index.html")


def _follow(output: IO[str], log: IO[str], kept: deque[str], verbose: bool) -> None:
    """Prints the steps' own lines and keeps the rest."""
    for line in output:
        text = line.rstrip("\n")
        log.write(text.replace(MARK, "") + "\n")
        mark = text.find(MARK)
        if mark >= 0:
            click.echo(text[mark + 1 :])
        elif verbose:
            click.echo(text)
        else:
            kept.append(text)


@contextmanager
def _ending_on_signal(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends the pipeline's whole process group, then this process, when told to or when the terminal is closed."""

    def end(number: int, _frame: FrameType | None) -> None:
        click.echo("stopping; the same command goes on with what is finished", err=True)
        _end_group(process)
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        process.poll()  # a leader that has ended must be reaped, or its group never empties
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
