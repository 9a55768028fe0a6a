"""`rlhf put`: data or a model folder → a store."""

from __future__ import annotations

from pathlib import Path

import click

from components.common.errors import UserError
from components.common.store import is_s3, open_store
from pipelines.cli import options, reach
from pipelines.cli.errors import reported


@click.command("put", context_settings=options.HELP_NAMES)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--store", metavar="URI", help="The store; default RLHF_STORE, else rlhf-store.")
@click.option("--to", metavar="URI", help="Copy to this place instead, under names of your own.")
@click.option("--create-bucket", is_flag=True, help="Make the store's bucket if there is none.")
@reach.place
def put(
    paths: tuple[Path, ...], store: str | None, to: str | None, create_bucket: bool, on: str, namespace: str
) -> None:
    """Put data or a model into a store; prints the URI that --model and --data take.

    One PATH that is a Hugging Face folder is a model. Files and folders of data keep their names, so that --data finds
    those called pretrain, sft, reward and rl. What is in the store already is not sent again.
    """
    from components.common.uploads import put as put_into
    from components.common.uploads import put_plain

    with reported(), reach.reached(on, namespace, to or store) as uri:
        if create_bucket:
            _create(uri)
        elif not paths:
            raise UserError("nothing is named", where="PATH", hint="rlhf put FILE-OR-FOLDER…")
        if paths:
            click.echo(put_plain(uri, paths) if to else put_into(open_store(uri), paths))


def _create(uri: str) -> None:
    if not is_s3(uri):
        raise UserError("has no bucket", where=uri, hint="give --store s3://BUCKET")
    from components.common.s3_uris import create_bucket

    click.echo(f"bucket of {uri}: {'made' if create_bucket(uri) else 'was there'}", err=True)
