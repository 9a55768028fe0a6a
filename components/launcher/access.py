"""What a person's machine must know to drive a cluster: its namespace's ConfigMap and Secret, as variables."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager

from components.common.errors import RetryableError, UserError
from components.launcher.cluster import BROKEN, CONFIG_MAPS, SECRETS, ApiError, Cluster
from components.launcher.connect import connect
from components.launcher.forward import store_endpoint
from components.names import CONFIG_MAP, IN_CONFIG_MAP, IN_SECRET, SECRET

_LOOK_SECONDS = 10.0


@contextmanager
def cluster_access(namespace: str = "", *, needs_store: bool = True) -> Iterator[Cluster]:
    """Finds the cluster and lets this process use its store while the block runs.

    What the environment already says stands; the rest comes from the namespace. An endpoint that only the cluster can
    reach is forwarded.

    Args:
        namespace: By default that of the kubeconfig's context.
        needs_store: Whether a store that is down is an error at once; else it is one when it is asked for something.

    Raises:
        UserError: No cluster is known.
        RetryableError: It does not answer.
    """
    cluster = connect(namespace)
    check_answers(cluster)
    before = dict(os.environ)
    for name, value in {**_config_map(cluster), **_secret(cluster)}.items():
        os.environ.setdefault(name, value)
    os.environ["RLHF_NAMESPACE"] = cluster.namespace
    try:
        with store_endpoint(cluster.namespace, must_run=needs_store):
            yield cluster
    finally:
        os.environ.clear()
        os.environ.update(before)


def check_answers(cluster: Cluster) -> None:
    """Sees that there is a cluster where the kubeconfig says, before anything waits for it.

    Raises:
        UserError: It does not know us.
        RetryableError: It does not answer.
    """
    host = cluster.api.configuration.host
    try:
        cluster.open("GET", "/version", None, None, _LOOK_SECONDS)
    except ApiError as error:
        raise UserError(
            f"the cluster refuses us: {error}", where=host, hint="log in again, or check KUBECONFIG"
        ) from error
    except BROKEN as error:
        raise RetryableError(
            f"no cluster answers: {error}", where=host, hint="check KUBECONFIG and its context"
        ) from error


def _config_map(cluster: Cluster) -> dict[str, str]:
    data = (cluster.get(CONFIG_MAPS, CONFIG_MAP) or {}).get("data") or {}
    return {name: data[name] for name in IN_CONFIG_MAP if data.get(name)}


def _secret(cluster: Cluster) -> dict[str, str]:
    """The store's keys, unless the environment has its own or we may not read the Secret."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    try:
        data = cluster.ask("GET", cluster.path(SECRETS, SECRET)).get("data") or {}
    except ApiError:
        return {}
    return {name: base64.b64decode(data[name]).decode() for name in IN_SECRET if name in data}
