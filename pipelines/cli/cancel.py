"""`rlhf cancel`: ends a run, wherever it runs."""

from __future__ import annotations

import os
import signal

import click

from components.common.errors import UserError
from components.launcher.record import Place
from pipelines.cli.errors import reported
from pipelines.cli.options import HELP_NAMES
from pipelines.cli.runs import Found, found_run, options


@click.command("cancel", context_settings=HELP_NAMES)
@click.argument("run")
@options
def cancel(run: str, store: str | None, namespace: str) -> None:
    """End a run and its jobs.

    No step of it begins any more. What is finished stays, and `rlhf run --run-id RUN` goes on from there.
    """
    with reported(), found_run(run, store, namespace) as found:
        _cancel(found)


def _cancel(found: Found) -> None:
    found.run.cancel()
    if found.cluster is not None:
        from components.launcher.cancel import delete_jobs, terminate_workflow

        names = delete_jobs(found.cluster, found.run.run_id)
        if terminate_workflow(found.pipelines or found.cluster, found.run.run_id):
            click.echo("the run on Kubeflow Pipelines is told to end")
        click.echo("\n".join(f"deleted job {name}" for name in names) or "it has no jobs")
    elif found.place is not None:
        _stop(found.place)
    click.echo(f"run {found.run.run_id} is cancelled")


def _stop(place: Place) -> None:
    """Tells the process that drives a local run to end; it ends what it has started."""
    if not place.is_here:
        raise UserError(f"runs on {place.host}", where="local run", hint="cancel it there; no step begins any more")
    if place.is_alive():
        os.kill(place.pid, signal.SIGTERM)
