"""Reaching a store from a person's machine, also where only a cluster knows its address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from components.common.store import is_s3, named_root

Command = TypeVar("Command", bound=Callable[..., Any])

_PLACES = click.Choice(["local", "kubernetes"])


def place(command: Command) -> Command:
    """The options that say whose store it is."""
    where = "Whose store: what this environment names, or the kubeconfig's cluster."
    command = click.option("-n", "--namespace", default="", help="Of the cluster; default the kubeconfig context's.")(
        command
    )
    return click.option("--on", type=_PLACES, default="local", show_default=True, help=where)(command)


@contextmanager
def reached(on: str, namespace: str, uri: str | None) -> Iterator[str]:
    """Lets this process use a store while the block runs.

    A name that only a cluster knows is reached through the kubeconfig.

    Args:
        on: `kubernetes` takes address and keys from a cluster's namespace, where the environment does not have them.
        namespace: Of the cluster; empty: the kubeconfig context's.
        uri: Something in the store, or its root; none: the root that the environment or the cluster names.
    """
    if on == "kubernetes":
        from components.launcher.access import cluster_access

        with cluster_access(namespace):
            yield named_root(uri)
    elif is_s3(named_root(uri)):
        from components.launcher.forward import store_endpoint

        with store_endpoint(namespace):
            yield named_root(uri)
    else:
        yield named_root(uri)
