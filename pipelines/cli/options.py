"""Options that several commands share, most of them those for inference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
OUTPUT = click.Path(path_type=Path, dir_okay=False)

base = click.option("--base", metavar="URI", help="The model below an adapter, if its manifest does not lead to it.")
batch_tokens = click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=16384,
    show_default=True,
    help="Tokens computed at a time, padding included. Changes no result: fewer need less memory.",
)


def sampling(max_completion_length: int) -> Callable[[Command], Command]:
    """The options that say how to sample.

    Args:
        max_completion_length: Its default.
    """
    options = (
        click.option(
            "--max-completion-length",
            type=click.IntRange(min=1),
            default=max_completion_length,
            show_default=True,
            help="Longest answer in tokens, with the one that ends it.",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            help="0 takes the most likely token.",
        ),
        click.option(
            "--top-k", type=click.IntRange(min=0), default=0, help="Only the so many most likely tokens; default: all."
        ),
        click.option(
            "--top-p",
            type=click.FloatRange(min=0, max=1, min_open=True),
            default=1.0,
            help="Only the most likely tokens that have this probability together; default: all.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sampling."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
