"""`rlhf run`: the pipeline driven from this machine, each step a process or a job, their lines as they come."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from components.common.errors import UserError
from components.common.flows import FLOWS
from components.common.store import named_root, open_store
from components.launcher.record import Place, Run
from components.prepare.config import RunConfig
from components.prepare.resolve import Request, resolve
from pipelines.cli.driver import drive
from pipelines.cli.errors import reported
from pipelines.cli.options import HELP_NAMES
from pipelines.cli.parameters import parse_parameters

if TYPE_CHECKING:
    from components.launcher.cluster import Cluster

DEFAULT_PIPELINE = Path(__file__).parents[1] / "rlhf.py"
DEFAULT_PRESET = "tiny-cpu"


@click.command("run", context_settings=HELP_NAMES)
@click.argument("arguments", nargs=-1, metavar="[PIPELINE.py] [KEY=VALUE]...")
@click.option("-p", "--preset", help="Name of a preset, or a YAML file; default tiny-cpu, the example.")
@click.option("--config", help="YAML file laid over the preset.")
@click.option("--model", help="Base model: folder, artifact URI, hub name, .gguf file.")
@click.option("--data", help="Folder with pretrain, sft, reward and rl files or folders.")
@click.option("--seed", type=int, help="Of everything random; default 0.")
@click.option("--store", envvar="RLHF_STORE", help="Where results are kept; default rlhf-store, or the cluster's.")
@click.option("--run-id", help="Name of the run; by default date, time and four letters.")
@click.option(
    "--on", type=click.Choice(["local", "kubernetes"]), default="local", show_default=True, help="Where the steps run."
)
@click.option("-n", "--namespace", default="", help="Of the jobs; default the kubeconfig context's.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries print, too.")
def run(
    arguments: tuple[str, ...],
    preset: str | None,
    config: str | None,
    model: str | None,
    data: str | None,
    seed: int | None,
    store: str | None,
    run_id: str | None,
    on: str,
    namespace: str,
    verbose: bool,
) -> None:
    """Run a pipeline, in processes of this machine or as jobs of the kubeconfig's cluster.

    PIPELINE.py is pipelines/rlhf.py by default; pipelines/dpo.py goes without a reward model. KEY=VALUE sets a
    parameter (seed=1) or overrides a field of the configuration (sft.learning_rate=1e-4). A stage whose result is in
    the store is not run again.
    """
    with reported():
        named = {"preset": preset, "config": config, "model": model, "data": data, "seed": seed}
        file, parameters = asked(arguments, named)
        if run_id and not re.fullmatch(r"[\w.-]{1,60}", run_id):
            raise UserError("letters, digits, dots, dashes and underscores are allowed", where=f"--run-id {run_id}")
        started = run_id or _new_run_id()
        if on == "kubernetes":
            code = _run_on_cluster(file, parameters, store, started, namespace, verbose)
        else:
            checked(file, parameters)
            code = _start(file, Run(open_store(named_root(store)), started), parameters, {}, verbose)
    sys.exit(code)


def asked(arguments: Sequence[str], named: Mapping[str, str | int | None]) -> tuple[Path, dict[str, str | int]]:
    """The pipeline file and the parameters that a command line asks for.

    Args:
        arguments: `[PIPELINE.py] [KEY=VALUE]...`
        named: Options that are parameters; None where one is not given.

    Raises:
        UserError: There is no such file, or an argument is malformed.
    """
    file, pairs = split(arguments)
    given = {name: value for name, value in named.items() if value is not None}
    parameters = {"preset": DEFAULT_PRESET, **parse_parameters(pairs), **given}
    for name in ("config", "model", "data", "preset"):
        parameters[name] = _absolute(name, str(parameters.get(name, "")))
    return file, parameters


def checked(file: Path, parameters: Mapping[str, str | int]) -> RunConfig | None:
    """Sees that a run is possible before anything is written; the configuration of a pipeline that is ours."""
    if not is_ours(file):
        return None
    request = {name: value for name, value in parameters.items() if name != "launcher_image"}
    return resolve(Request(**{"preset": DEFAULT_PRESET, **request}, pipeline=file.stem))  # type: ignore[arg-type]


def is_ours(file: Path) -> bool:
    """Whether a pipeline file is one of this package, whose parameters we know."""
    return file.resolve().parent == DEFAULT_PIPELINE.parent and file.stem in FLOWS


def split(arguments: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """The pipeline file of a command line, by default the first of ours, and the arguments after it.

    Raises:
        UserError: There is no such file.
    """
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


def _run_on_cluster(
    file: Path, parameters: dict[str, str | int], store: str | None, run_id: str, namespace: str, verbose: bool
) -> int:
    from components.launcher.access import cluster_access
    from components.launcher.job import check_label
    from pipelines.cli.on_cluster import check_paths, check_secret, embed_files, pod_endpoint

    check_label(run_id)
    config = checked(file, parameters)
    ours = os.environ.get("AWS_ENDPOINT_URL", "")
    with cluster_access(namespace or (config.launcher.namespace if config else "")) as cluster:
        root = named_root(store)
        if config is not None:
            check_paths(config, root)
            check_secret(cluster, config.launcher, root)
            endpoint = pod_endpoint(cluster, config.launcher, ours)
            if endpoint:
                parameters = {**parameters, "overrides": _also(parameters, f"launcher.store.endpoint_url={endpoint}")}
        environment = {"RLHF_LAUNCHER": "kubernetes", "RLHF_CPU_STEPS": "job", "RLHF_NAMESPACE": cluster.namespace}
        started = Run(open_store(root), run_id)
        try:
            return _start(file, started, embed_files(parameters), environment, verbose)
        except SystemExit as stopped:
            _leave_or_end(cluster, started, stopped.code == 128 + signal.SIGINT)
            raise


def _also(parameters: dict[str, str | int], override: str) -> str:
    return "\n".join(filter(None, [str(parameters.get("overrides", "")), override]))


def _leave_or_end(cluster: Cluster, started: Run, end: bool) -> None:
    """Ctrl-C means the jobs, too; a lost terminal or a shutdown of this machine does not."""
    from components.launcher.cancel import delete_jobs

    if end:
        for name in delete_jobs(cluster, started.run_id):
            click.echo(f"deleted job {name}", err=True)
    else:
        click.echo(
            f"its jobs go on in namespace {cluster.namespace}: `rlhf run --run-id {started.run_id} …` takes them up, "
            f"`rlhf cancel {started.run_id}` ends them",
            err=True,
        )


def _start(
    file: Path, started: Run, parameters: dict[str, str | int], environment: dict[str, str], verbose: bool
) -> int:
    on, namespace = environment.get("RLHF_LAUNCHER", "local"), environment.get("RLHF_NAMESPACE", "")
    started.forget_unfinished()
    started.begin(Place.here(on, namespace))
    click.echo(f"run {started.run_id} in {started.store.root}{f' on namespace {namespace}' if namespace else ''}")
    return drive(file, started, parameters, environment, verbose)
