"""`rlhf submit` and `kfp run submit FILE.py`: the pipeline on Kubeflow Pipelines."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.common.errors import RetryableError, UserError
from components.common.store import is_s3
from components.names import LAUNCHER_ACCOUNT
from pipelines.cli.errors import reported
from pipelines.cli.options import HELP_NAMES
from pipelines.cli.parameters import parse_parameters
from pipelines.cli.run import checked, is_ours, split

if TYPE_CHECKING:
    from pipelines.cli.home import Home

ENDED = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, "CANCELED": 1}
POLL_SECONDS = 2.0
AWAY_SECONDS = 300.0  # how long the API server may be away while we wait; the run goes on without it
IMAGES = ("RLHF_REGISTRY", "RLHF_VERSION", "RLHF_IMAGE")


@click.command("submit", context_settings=HELP_NAMES)
@click.argument("arguments", nargs=-1, metavar="[PIPELINE.py] [KEY=VALUE]...")
@click.option("-e", "--experiment-name", default="rlhf", show_default=True, help="Experiment that the run belongs to.")
@click.option("-r", "--run-name", help="Name of the run; by default the pipeline's with date and time.")
@click.option("-w", "--wait", is_flag=True, help="Wait for the end; exit 1 if the run fails or is cancelled.")
@click.option(
    "-n", "--namespace", default="", help="Default: the context's, else the only one with Kubeflow Pipelines."
)
@click.option("--endpoint", envvar="KF_PIPELINES_ENDPOINT", help="URL of its API; else through the kubeconfig.")
@click.option("--iap-client-id", help="Where the endpoint is behind Google's IAP: its client.")
@click.option("--other-client-id", help="With IAP: the client that the user's own credentials are for.")
@click.option("--other-client-secret", help="Its secret.")
@click.option("--existing-token", help="Bearer token for the endpoint.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", help="json: the run, and no text.")
def submit(
    arguments: tuple[str, ...],
    experiment_name: str,
    run_name: str | None,
    wait: bool,
    namespace: str,
    endpoint: str | None,
    iap_client_id: str | None,
    other_client_id: str | None,
    other_client_secret: str | None,
    existing_token: str | None,
    output: str,
) -> None:
    """Start a pipeline on Kubeflow Pipelines.

    PIPELINE.py is pipelines/rlhf.py by default; pipelines/dpo.py goes without a reward model. KEY=VALUE sets a
    parameter (seed=1) or overrides a field of the configuration (sft.learning_rate=1e-4). The names of the images come
    from the ConfigMap rlhf-stack; with --endpoint, from RLHF_REGISTRY, RLHF_VERSION and RLHF_IMAGE.
    """
    # The client of Kubernetes takes half a second to import, which --help shall not wait for.
    from pipelines.cli.home import Home, find_home
    from pipelines.cli.on_cluster import embed_files

    with reported():
        file, pairs = split(arguments)
        parameters = parse_parameters(pairs)
        _check(file, parameters)
        parameters = embed_files(parameters)
        home = Home(namespace) if endpoint else find_home(namespace)
        api = Api(endpoint, iap_client_id, other_client_id, other_client_secret, existing_token)
        with redirect_stdout(sys.stderr) if output == "json" else nullcontext():
            client, started = _submit(file, parameters, experiment_name, run_name, home, api)
            code = _wait(client, started.run_id, endpoint) if wait else 0
        if output == "json":
            click.echo(json.dumps(asdict(started)))
    sys.exit(code)


@dataclass(frozen=True)
class Api:
    """How the API of Kubeflow Pipelines is reached, in the words of its client."""

    host: str | None
    client_id: str | None
    other_client_id: str | None
    other_client_secret: str | None = field(repr=False)
    existing_token: str | None = field(repr=False)


@dataclass(frozen=True)
class Started:
    """A run that was started, as `--output json` shows it."""

    run_id: str
    name: str
    experiment: str
    namespace: str
    link: str


def _check(file: Path, parameters: dict[str, str | int]) -> None:
    """Sees that a run is possible: a typo must not cost one on the cluster. What is in a bucket is seen there alone."""
    from pipelines.cli.on_cluster import check_sources

    elsewhere = {name for name in ("config", "data") if is_s3(str(parameters.get(name, "")))}
    config = checked(file, {name: value for name, value in parameters.items() if name not in elsewhere})
    if config is not None:
        check_sources(config)


def _submit(
    file: Path,
    parameters: dict[str, str | int],
    experiment_name: str,
    run_name: str | None,
    home: Home,
    api: Api,
) -> tuple[Any, Started]:
    """Compiles the pipeline and starts it; returns the client and the run."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.disable(logging.WARNING)
    from kfp import compiler

    from pipelines.cli.load import load_pipeline

    os.environ.update({name: value for name, value in home.settings.items() if name in IMAGES})
    pipeline: Any = load_pipeline(file)
    name = run_name or f"{pipeline.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with tempfile.TemporaryDirectory(prefix="rlhf-submit-") as folder:
        package = str(Path(folder) / "pipeline.yaml")
        compiler.Compiler().compile(pipeline, package)
        client = _client(api, home.namespace)
        try:
            with redirect_stdout(io.StringIO()):  # kfp prints a link to the API, as if that were the web interface
                started = client.create_run_from_pipeline_package(
                    package,
                    arguments=parameters,
                    run_name=name,
                    experiment_name=experiment_name,
                    namespace=home.namespace,
                    service_account=LAUNCHER_ACCOUNT if is_ours(file) else None,
                )
        except Exception as error:
            raise _api_error(error, api.host) from error
    click.echo(f"run {started.run_id} ({name}) started in experiment {experiment_name}")
    ui = home.settings.get("RLHF_UI_URL", "").rstrip("/")
    link = f"{ui}/#/runs/details/{started.run_id}" if ui else ""
    if link:
        click.echo(link)
    where = f" -n {home.namespace}" if home.namespace else ""
    chosen = f"-l pipeline/runid={started.run_id},rlhf-stack/step --tail=-1 --max-log-requests=20"
    click.echo(f"follow it: kubectl logs{where} -f {chosen}")
    return client, Started(started.run_id, name, experiment_name, home.namespace, link)


def _client(api: Api, namespace: str) -> Any:
    import kfp

    try:
        return kfp.Client(**asdict(api), namespace=namespace or "kubeflow")
    except Exception as error:  # kfp raises what urllib3, the kubeconfig or its own checks raise
        raise _api_error(error, api.host) from error


def _api_error(error: Exception, endpoint: str | None) -> Exception:
    status = getattr(error, "status", None)
    detail = " ".join((_told(error) or str(getattr(error, "reason", None) or error)).split())[:300]
    if status is not None and 400 <= int(status) < 500 and int(status) != 429:
        return UserError(f"the API server refused: {status} {detail}", where=endpoint or "Kubeflow Pipelines")
    if _told(error):
        where = endpoint or "Kubeflow Pipelines"
        return RetryableError(f"the API server failed: {status} {detail}", where=where, hint="see its log")
    return RetryableError(
        f"no answer from Kubeflow Pipelines: {detail}",
        where=endpoint or "kubeconfig",
        hint="check --endpoint or KUBECONFIG, and that the ml-pipeline Service is up",
    )


def _told(error: Exception) -> str:
    """What the API server itself says, if it was the one that answered."""
    try:
        body = json.loads(getattr(error, "body", None) or "")
    except ValueError:
        return ""
    return str(body.get("error") or body.get("message") or "") if isinstance(body, dict) else ""


def _wait(client: Any, run_id: str, endpoint: str | None) -> int:
    """Polls a run; kfp's own wait does not know that a run can be cancelled, which Argo ends as failed."""
    shown: str | None = ""
    cancelled, answered, away = False, time.monotonic(), False
    while True:
        try:
            state = client.get_run(run_id).state  # None until the controller has seen the run
        except Exception as error:
            told = _api_error(error, endpoint)
            if isinstance(told, UserError) or time.monotonic() - answered > AWAY_SECONDS:
                raise told from error
            if not away:
                _tell(f"{told}; trying for {AWAY_SECONDS:.0f} s more")
            away = True
            time.sleep(POLL_SECONDS)
            continue
        if away:
            _tell("it answers again")
        answered, away = time.monotonic(), False
        cancelled |= state == "CANCELING"
        if state != shown:
            _tell("CANCELED" if cancelled and state == "FAILED" else state or "PENDING")
            shown = state
        if state in ENDED:
            return ENDED[state]
        time.sleep(POLL_SECONDS)


def _tell(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}")
