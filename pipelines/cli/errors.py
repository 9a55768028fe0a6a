"""Errors of the command line: one line, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from components.common.errors import RlhfError


@contextmanager
def reported() -> Iterator[None]:
    """Turns an error into one line on stderr and its exit code."""
    try:
        yield
    except RlhfError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.code)


@contextmanager
def resumable() -> Iterator[None]:
    """Ends a command on Ctrl-C with one line; the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("stopped: the same command goes on after the rows that are written", err=True)
        sys.exit(130)
