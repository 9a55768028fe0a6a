"""`rlhf doctor`: what a run needs, and how to mend what is missing."""

from __future__ import annotations

import json
import sys

import click

from pipelines.cli import options
from pipelines.cli.errors import reported


@click.command("doctor", context_settings=options.HELP_NAMES)
@click.option("--store", default="", help="Root of the store; default $RLHF_STORE, or the cluster's.")
@click.option("-n", "--namespace", default="", help="Of the jobs; default the kubeconfig context's.")
@click.option("--gpus", type=click.IntRange(min=0), default=4, show_default=True, help="GPUs of a training pod.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Pods of a training job.")
@click.option("--placement", type=click.Choice(["gke", "eks", "aks", "gpu-operator"]), help="Where T4 nodes come from.")
@click.option("--pull", is_flag=True, help="Start every image once, to see that it can be pulled; takes minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(store: str, namespace: str, gpus: int, nodes: int, placement: str | None, pull: bool, as_json: bool) -> None:
    """Check what a run needs, here and on the kubeconfig's cluster, and say how to mend what is missing.

    Exit code 2 if a run is not possible. Writes a few bytes to the store and takes them away; starts nothing but what
    --pull asks for.
    """
    with reported():
        from pipelines.doctor.examination import Wanted, as_dict, as_text, examine_all

        found = examine_all(Wanted(store, namespace, gpus, nodes, placement or "", pull))
        click.echo(json.dumps(as_dict(found), indent=2, ensure_ascii=False) if as_json else as_text(found))
    sys.exit(0 if found.passed else 2)
