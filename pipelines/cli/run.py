"""`rlhf run`: the pipeline on this machine, each step a process, their lines as they come."""

from __future__ import annotations

import json
import os
import re
import secrets
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

from components.common.errors import RlhfError, UserError
from components.common.flows import FLOWS
from components.common.logs import MARK
from components.common.store import open_store
from components.launcher.record import Run
from components.prepare.resolve import Request, resolve
from pipelines.cli import options
from pipelines.cli.errors import reported
from pipelines.cli.parameters import parse_parameters

DEFAULT_PIPELINE = Path(__file__).parents[1] / "rlhf.py"
GRACE_SECONDS = 30.0  # what a pod is given too
KEPT_LINES = 60  # of the libraries' output, shown when a step dies of a bug


@click.command("run", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("arguments", nargs=-1, metavar="[PIPELINE.py] [KEY=VALUE]...")
@click.option("-p", "--preset", help="Name of a preset, or a YAML file; default tiny-cpu, the example.")
@click.option("--config", help="YAML file laid over the preset.")
@click.option("--model", help="Base model: folder, artifact URI, hub name, .gguf file.")
@click.option("--data", help="Folder with pretrain, sft, reward and rl files or folders.")
@click.option("--seed", type=int, help="Of everything random; default 0.")
@options.store
@click.option("--run-id", help="Name of the run; by default date, time and four letters.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries print, too.")
def run(
    arguments: tuple[str, ...],
    preset: str | None,
    config: str | None,
    model: str | None,
    data: str | None,
    seed: int | None,
    store: str,
    run_id: str | None,
    verbose: bool,
) -> None:
    """Run a pipeline here, in processes of this machine.

    PIPELINE.py is pipelines/rlhf.py by default; pipelines/dpo.py goes without a reward model. KEY=VALUE sets a
    parameter (seed=1) or overrides a field of the configuration (sft.learning_rate=1e-4). A stage whose result is in
    the store is not run again.
    """
    with reported():
        file, pairs = _split(arguments)
        named = {"preset": preset, "config": config, "model": model, "data": data, "seed": seed}
        given = {name: value for name, value in named.items() if value is not None}
        parameters = {"preset": "tiny-cpu", **parse_parameters(pairs), **given}
        for name in ("config", "model", "data", "preset"):
            parameters[name] = _absolute(name, str(parameters.get(name, "")))
        if is_ours(file):  # see that it can be run before anything is written
            request = {name: value for name, value in parameters.items() if name != "launcher_image"}
            resolve(Request(**request, pipeline=file.stem))  # type: ignore[arg-type]
        if run_id and not re.fullmatch(r"[\w.-]{1,60}", run_id):
            raise UserError("letters, digits, dots, dashes and underscores are allowed", where=f"--run-id {run_id}")
        started = Run(open_store(store), run_id or _new_run_id())
        started.forget_unfinished()
        click.echo(f"run {started.run_id} in {started.store.root}")
        code = _run_pipeline(file, started, parameters, verbose)
    sys.exit(code)


def is_ours(file: Path) -> bool:
    """Whether a pipeline file is one of this package, whose parameters we know."""
    return file.resolve().parent == DEFAULT_PIPELINE.parent and file.stem in FLOWS


def _split(arguments: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    if arguments and arguments[0].endswith(".py") and "=" not in arguments[0]:
        file = Path(arguments[0])
        if not file.is_file():
            raise UserError("no such file", where=arguments[0], hint="give a pipeline file, or none for the default")
        return file.absolute(), arguments[1:]
    return DEFAULT_PIPELINE, arguments


def _absolute(name: str, value: str) -> str:
    """The steps run elsewhere, so what names a file here must name it there. A bare word may name something else."""
    keyword = name == "preset" and "/" not in value and not value.endswith((".yaml", ".yml"))
    if not value or keyword or value == "scratch" or "\n" in value or len(value) > 1000:
        return value
    path = Path(value).expanduser()
    return str(path.absolute()) if path.exists() else value


def _new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _run_pipeline(file: Path, started: Run, parameters: dict[str, str | int], verbose: bool) -> int:
    """Runs the pipeline's process to its end; returns the exit code."""
    with started.store.folder(f"runs/{started.run_id}") as folder:
        return _run_in(folder, file, started, parameters, verbose)


def _run_in(folder: Path, file: Path, started: Run, parameters: dict[str, str | int], verbose: bool) -> int:
    """The same, with a local folder for its log and for what kfp keeps of each step."""
    environment = {
        **os.environ,
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
        with _ending_on_signal(process), (folder / "run.log").open("w", encoding="utf-8") as log:
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
