"""`rlhf put`: data or a model folder → a store."""

from __future__ import annotations

from pathlib import Path

import click

from components.common.errors import UserError
from components.common.store import is_s3, open_store
from pipelines.cli import options
from pipelines.cli.errors import reported


@click.command("put", context_settings=options.HELP_NAMES)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="PATH...")
@options.store
@click.option("--to", metavar="URI", help="Copy to this place instead, under names of your own.")
@click.option("--create-bucket", is_flag=True, help="Make the store's bucket if there is none.")
def put(paths: tuple[Path, ...], store: str, to: str | None, create_bucket: bool) -> None:
    """Put data or a model into a store; prints the URI that --model and --data take.

    One PATH that is a Hugging Face folder is a model. Files and folders of data keep their names, so that --data finds
    those called pretrain, sft, reward and rl. What is in the store already is not sent again.
    """
    from components.common.uploads import put as put_into
    from components.common.uploads import put_plain

    with reported():
        if create_bucket:
            _create(to or store)
        elif not paths:
            raise UserError("nothing is named", where="PATH", hint="rlhf put FILE-OR-FOLDER…")
        if paths:
            click.echo(put_plain(to, paths) if to else put_into(open_store(store), paths))


def _create(root: str) -> None:
    if not is_s3(root):
        raise UserError("has no bucket", where=root, hint="give --store s3://BUCKET")
    from components.common.s3 import create_bucket

    made = create_bucket(root)
    click.echo(f"bucket of {root}: {'made' if made else 'was there'}", err=True)
