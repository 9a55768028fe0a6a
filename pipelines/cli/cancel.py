"""`rlhf cancel`: ends a run, wherever it runs."""

from __future__ import annotations

import os
import signal

import click

from components.common.errors import RetryableError, RlhfError, UserError
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
    with reported(), found_run(run, store, namespace, needs_store=False) as found:
        _cancel(found)


def _cancel(found: Found) -> None:
    fault = found.fault or _mark(found)
    if found.cluster is not None:
        from components.launcher.cancel import delete_jobs, terminate_workflow

        names = delete_jobs(found.cluster, found.run.run_id)
        if terminate_workflow(found.pipelines or found.cluster, found.run.run_id):
            click.echo("the run on Kubeflow Pipelines is told to end")
        click.echo("\n".join(f"deleted job {name}" for name in names) or "it has no jobs")
    elif found.place is not None:
        _stop(found.place)
    if fault is not None:
        raise RetryableError(
            f"its jobs are deleted, but a step may begin yet, as the store cannot be told: {fault}",
            where=found.run.run_id,
            hint="run the same again when the store answers",
        ) from fault
    click.echo(f"run {found.run.run_id} is cancelled")


def _mark(found: Found) -> RlhfError | None:
    """Marks the run, so that no step of it begins; returns why it cannot, where a cluster has jobs to end all the same.

    Before they are ended, so that a launcher which is making one sees the mark.
    """
    try:
        found.run.cancel()
    except RlhfError as error:
        if found.cluster is None:
            raise
        return error
    return None


def _stop(place: Place) -> None:
    """Tells the process that drives a local run to end; it ends what it has started."""
    if not place.is_here:
        raise UserError(f"runs on {place.host}", where="local run", hint="cancel it there; no step begins any more")
    if place.is_alive():
        os.kill(place.pid, signal.SIGTERM)
