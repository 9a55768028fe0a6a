"""`rlhf get`: an artifact, an upload or any other part of a store → a folder."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli import options, reach
from pipelines.cli.errors import reported


@click.command("get", context_settings=options.HELP_NAMES)
@click.argument("uri")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@reach.place
def get(uri: str, folder: Path, on: str, namespace: str) -> None:
    """Take an artifact, data or a report out of a store.

    URI is anything in a store: STORE/artifacts/merge/KEY, STORE/runs/RUN/report. FOLDER gets its files; an artifact's
    are compared with its manifest. An interrupted command goes on when it is given again.
    """
    from components.common.uploads import get as get_out

    with reported(), reach.reached(on, namespace, uri):
        click.echo(f"{get_out(uri, folder)} files in {folder}")
